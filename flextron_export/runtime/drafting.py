"""Self-speculative decoding: a narrow budget drafts tokens, the budget that was selected verifies them in one step.

Both are prefixes of the same weights, so nothing is loaded twice; and the draft reads the verifier's own KV cache
through its first groups, so there is no second cache and no second prefill. The keys and values that the draft writes
for its tokens are replaced by the verifier's when it verifies. (Values differ between budgets, as deeper layers see
other inputs; that the draft reads those of the wider network makes it better, and cannot change what is accepted.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..elastic.widths import Budget
from .answer import Answer, Choice
from .generation import one_by_one
from .rejection import Distribution, decide
from .sequence import LiveSequence
from .timings import Drafted


def can_draft(draft: Budget, verifier: Budget) -> bool:
    """Whether a budget is another one, no wider in any layer, so that it reads a prefix of the verifier's cache."""
    pairs = zip(draft.layers, verifier.layers, strict=True)
    return draft.layers != verifier.layers and all(d.groups <= v.groups and d.neurons <= v.neurons for d, v in pairs)


class Draft:
    """A narrow budget that writes behind the tokens of another budget's sequence.

    Args:
        sequence: of one sequence, at a budget that `can_draft` allows.
        budget: the narrow one.
    """

    def __init__(self, sequence: LiveSequence, budget: Budget) -> None:
        self.sequence, self.budget = sequence, budget
        self._wide: tuple[int, int] = (0, 0)
        self._token, self._position = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64)
        self._write, self._row = np.zeros(1, np.int64), np.zeros(1, np.int64)

    def step(self, token: int, ahead: int) -> np.ndarray:
        """Logits [vocab] after a token that lies `ahead` slots behind the sequence's end, valid until the next call.

        The tokens between must have been computed just before. The cache must have room for it.
        """
        cache = self.sequence.cache
        if self._wide != (id(cache), cache.capacity):  # a cache that has grown lies elsewhere
            self._cache = self.sequence.session.narrowed(cache, self.budget)
            self._wide = id(cache), cache.capacity
        self._token[0, 0] = token
        self._position[0, 0] = self._write[0] = self.sequence.length + ahead
        return self.sequence.session.step(self._cache, self._token, self._position, self._write, self._row)[0]


class Drafter:
    """Chooses the next tokens of one generation by drafting and verifying.

    They follow the verifier's distribution exactly. With a seed they are reproducible, but other than without drafts,
    as more random numbers are used.

    Args:
        length: gives, for the tokens held so far, how many to draft now; 0 for none.
        budget: the narrow budget.
        drafted: is filled in.
        observe: is told how many tokens of a round were drafted and how many of them accepted.
    """

    def __init__(
        self,
        budget: Budget,
        length: Callable[[int], int],
        drafted: Drafted,
        observe: Callable[[int, int], None] = lambda drafted, accepted: None,
    ) -> None:
        self.budget, self.drafted = budget, drafted
        self._length, self._observe = length, observe
        self._draft: Draft | None = None

    def advance(self, sequence: LiveSequence, answer: Answer, token: int) -> list[Choice]:
        """See `generation.Advance`."""
        begin = sequence.length
        length = min(self._length(begin), answer.wanted - 1, sequence.maximum - begin - 1)
        if length < 1:
            return one_by_one(sequence, answer, token)
        sequence.reserve(begin + 1 + length)
        tokens, proposed = self._propose(sequence, answer, token, length)
        logits = sequence.append([token, *tokens])
        chosen = self._verify(answer, tokens, proposed, logits)
        sequence.cut(begin + len(chosen))
        self._note(length, len(chosen) - 1)
        return chosen

    def _propose(
        self, sequence: LiveSequence, answer: Answer, token: int, length: int
    ) -> tuple[list[int], list[Distribution]]:
        if self._draft is None or self._draft.sequence is not sequence:
            self._draft = Draft(sequence, self.budget)
        sampler = answer.sampler
        tokens: list[int] = []
        proposed: list[Distribution] = []
        for ahead in range(length):
            logits = self._draft.step(token, ahead)
            proposed.append(Distribution.of(sampler.sampling, logits, sampler.seen(tokens)))
            token = proposed[-1].draw(sampler.random)
            tokens.append(token)
        return tokens, proposed

    @staticmethod
    def _verify(answer: Answer, tokens: list[int], proposed: list[Distribution], logits: np.ndarray) -> list[Choice]:
        sampler = answer.sampler
        chosen: list[Choice] = []
        for place, row in enumerate(logits):
            verified = Distribution.of(sampler.sampling, row, sampler.seen(tokens[:place]))
            if place == len(tokens):
                chosen.append((verified.draw(sampler.random), row))  # all were accepted: one more for nothing
                break
            accepted, token = decide(verified, proposed[place], tokens[place], sampler.random)
            chosen.append((token, row))
            if not accepted:
                break
        return chosen

    def _note(self, drafted: int, accepted: int) -> None:
        self.drafted.budget = self.budget.name
        self.drafted.rounds += 1
        self.drafted.tokens += drafted
        self.drafted.accepted += accepted
        self._observe(drafted, accepted)
