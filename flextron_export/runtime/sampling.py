"""Choosing the next token from logits: the processors of transformers' `generate`, in its order, without sorting the
vocabulary.

engines/src/sampling.cpp chooses the same token for the same seed: tests/runtime/sampling_vectors.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, TargetError, problems


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. The settings act in this order: repetition penalty, temperature, top-k, top-p, min-p.

    Attributes:
        temperature: 0 takes the likeliest token; higher is more random.
        top_k: choose among the k likeliest only (and those as likely as the k-th); 0 for all.
        top_p: choose among the fewest likeliest that together have this probability; 1 for all.
        min_p: choose among those at least this many times as likely as the likeliest; 0 for all.
        repetition_penalty: a logit of a token that has occurred, in the prompt too, is divided by this if it is
            positive and multiplied if it is negative; 1 for none (Keskar et al. 2019, section 4.1).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def validate(self) -> None:
        """Raise InputError naming every setting that makes no sense."""
        found = []
        if not 0 <= self.temperature < float("inf"):
            found.append(f"temperature {self.temperature} is not 0 or more")
        if self.top_k < 0:
            found.append(f"top-k {self.top_k} is negative")
        if not 0 < self.top_p <= 1:
            found.append(f"top-p {self.top_p} is not in (0, 1]")
        if not 0 <= self.min_p <= 1:
            found.append(f"min-p {self.min_p} is not in [0, 1]")
        if not 0 < self.repetition_penalty < float("inf"):
            found.append(f"repetition penalty {self.repetition_penalty} is not above 0")
        problems(InputError, "these sampling settings cannot be used", found)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time, without a random number."""
        return self.temperature == 0 or self.top_k == 1

    def choose(self, logits: np.ndarray, random: np.random.Generator, seen: np.ndarray | None = None) -> int:
        """The next token.

        Args:
            logits: float32 [vocab]; they are not changed, and not copied if the choice is greedy without a penalty.
            random: gives one number in [0, 1) per token, none if the choice is greedy.
            seen: int64, the distinct tokens of prompt and answer so far, for the repetition penalty.

        Raises:
            TargetError: a logit is not a number.
        """
        logits = self.penalised(logits, seen)
        if self.greedy:
            token = int(logits.argmax())  # the first NaN, if there is one
            if not np.isfinite(logits[token]):
                raise _not_numbers()
            return token
        return draw(*self.candidates(logits), random)

    def penalised(self, logits: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
        """Logits with the repetition penalty: a copy, or the same array if there is none."""
        if self.repetition_penalty == 1 or seen is None or not len(seen):
            return logits
        logits = logits.copy()
        found = logits[seen]
        logits[seen] = np.where(found < 0, found * self.repetition_penalty, found / self.repetition_penalty)
        return logits

    def candidates(self, logits: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """Tokens that can be chosen, ascending (None for all), and how likely each is compared with the likeliest."""
        most, tokens = logits.max(), None
        if not np.isfinite(most):  # the largest is NaN if any is
            raise _not_numbers()
        if 0 < self.top_k < len(logits):
            tokens = np.flatnonzero(logits >= np.partition(logits, -self.top_k)[-self.top_k])
            logits = logits[tokens]
        odds = logits.astype(np.float64)
        odds -= most
        with np.errstate(over="ignore"):  # a tiny temperature: minus infinity is right
            odds /= self.temperature
        np.exp(odds, out=odds)
        kept = None
        if self.top_p < 1:
            kept = _nucleus(odds, self.top_p)
        if self.min_p > 0:
            likely = odds >= self.min_p
            kept = np.flatnonzero(likely) if kept is None else kept[likely[kept]]
        if kept is not None:
            odds = odds[kept]
            tokens = kept if tokens is None else tokens[kept]
        return tokens, odds


class Sampler:
    """The choices of one sequence: a generator of its own, and the tokens it has seen where a penalty needs them.

    Args:
        sampling: valid settings.
        seed: the same seed, logits and settings give the same tokens; None for another each time.
        prompt: token ids.
    """

    def __init__(self, sampling: Sampling, seed: int | None, prompt: Iterable[int]) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(seed)
        self._seen = set(prompt) if sampling.repetition_penalty != 1 else None
        self._array = None if self._seen is None else np.array(sorted(self._seen), np.int64)

    @property
    def random(self) -> np.random.Generator:
        """Where its random numbers come from."""
        return self._random

    def seen(self, ahead: Sequence[int]) -> np.ndarray | None:
        """Distinct tokens of prompt and answer, and of those that may come next; None without a penalty."""
        return self._array if self._array is None or not ahead else np.union1d(self._array, ahead)

    def choose(self, logits: np.ndarray) -> int:
        """The next token, from float32 logits [vocab]."""
        token = self.pick(logits)
        self.record(token)
        return token

    def pick(self, logits: np.ndarray) -> int:
        """As `choose`, for a caller that will `record` it."""
        return self.sampling.choose(logits, self._random, self._array)

    def record(self, token: int) -> None:
        """A token was chosen."""
        if self._seen is not None and self._array is not None and token not in self._seen:
            self._seen.add(token)
            self._array = np.append(self._array, token)


def draw(tokens: np.ndarray | None, odds: np.ndarray, random: np.random.Generator) -> int:
    """One of the tokens (None for all of the vocabulary), each with a probability in proportion to its odds."""
    # In the order of the vocabulary: what the filters keep is a set, so nothing need be sorted for the draw.
    cumulative = odds.cumsum()
    place = int(np.searchsorted(cumulative, random.random() * cumulative[-1], "right"))
    place = min(place, len(odds) - 1)
    return place if tokens is None else int(tokens[place])


def _nucleus(odds: np.ndarray, top_p: float) -> np.ndarray:
    """Indices, ascending, of the fewest largest odds whose share is at least `top_p`; of equal ones the first.

    All odds that are at most the share (1 - top_p) / len(odds) add up to no more than what top-p may leave out, so the
    others hold the nucleus, and these few are all that is sorted.
    """
    total = odds.sum()
    values = odds[odds > (1 - top_p) * total / len(odds)]
    values.sort()
    descending = values[::-1]
    count = min(int(descending.cumsum().searchsorted(top_p * total)) + 1, len(values))
    least = descending[count - 1]
    kept = np.flatnonzero(odds >= least)
    if surplus := len(kept) - count:
        kept = np.delete(kept, np.flatnonzero(odds[kept] == least)[-surplus:])
    return kept


def _not_numbers() -> TargetError:
    return TargetError(
        "The model computed logits that are not numbers.",
        cause="a damaged graph or weights file, or a precision too low for the model",
        fix="flextron-export verify BUNDLE",
    )
