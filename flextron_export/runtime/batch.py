"""Several sequences at one budget in one KV cache: prompts of unequal lengths, answers that end at different times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..elastic.widths import Budget
from ..targets.session import Session
from .answer import Answer
from .capacity import capacity_for
from .sequence import CHUNK
from .timings import Timings


class LiveBatch:
    """Tokens of several sequences at one budget.

    Every sequence fills its own slots from 0; a shorter one is padded on the right, where its next token overwrites
    the padding. So each computes what it would compute alone.

    Args:
        session: where it runs.
        budget: the sub-network.
        size: number of sequences.
        maximum: most tokens a sequence may hold.
        chunk: tokens per sequence and prefill call.

    Attributes:
        lengths: int64 [batch], slots in use.
    """

    def __init__(self, session: Session, budget: Budget, size: int, maximum: int, *, chunk: int = CHUNK) -> None:
        self.session, self.budget, self.maximum, self.chunk = session, budget, maximum, chunk
        self.lengths = np.zeros(size, np.int64)
        self._cache: Any = None

    def prefill(self, prompts: Sequence[Sequence[int]], before: Callable[[], object]) -> np.ndarray:
        """Begin every sequence with its prompt; return the float32 logits [batch, vocab] after each."""
        ends = np.array([len(prompt) for prompt in prompts])
        self._cache = self.session.new_cache(self.budget, len(prompts), capacity_for(int(ends.max()), self.maximum))
        padded = np.zeros((len(prompts), int(ends.max())), np.int64)
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = prompt
        logits: np.ndarray | None = None
        for start in range(0, padded.shape[1], self.chunk):
            before()
            ids = padded[:, start : start + self.chunk]
            last = ends - 1 - start
            ending = np.flatnonzero((last >= 0) & (last < ids.shape[1]))
            # A sequence whose prompt is complete is padded behind its end, where the longest has slots as well.
            write = np.minimum(start, ends)
            positions = write[:, None] + np.arange(ids.shape[1])
            # One row at least: the graph computes logits in every call.
            rows = ending * ids.shape[1] + last[ending] if len(ending) else np.zeros(1, np.int64)
            found = self.session.step(self._cache, ids, positions, write, rows)
            if logits is None:
                logits = np.empty((len(prompts), found.shape[1]), np.float32)
            logits[ending] = found[: len(ending)]
        self.lengths = ends.astype(np.int64)
        assert logits is not None
        return logits

    def decode(self, tokens: Sequence[int]) -> np.ndarray:
        """Append one token to every sequence; return the float32 logits [batch, vocab], valid until the next call."""
        needed = int(self.lengths.max()) + 1
        if needed > self._cache.capacity:
            self.session.grow(self._cache, capacity_for(needed, self.maximum))
        ids = np.array(tokens, np.int64)[:, None]
        logits = self.session.step(self._cache, ids, self.lengths[:, None], self.lengths, np.arange(len(tokens)))
        self.lengths += 1
        return logits

    def keep(self, sequences: Sequence[int]) -> None:
        """Go on with these sequences only, in this order."""
        lengths = self.lengths[list(sequences)]
        longest = int(lengths.max())
        capacity = capacity_for(longest + 1, self.maximum)
        self._cache = self.session.copy(self._cache, sequences, longest, capacity)
        self.lengths = lengths

    def full(self, sequence: int) -> bool:
        """Whether a sequence has no room for another token."""
        return bool(self.lengths[sequence] >= self.maximum)


def generate_batch(
    batch: LiveBatch,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Answer],
    timings: Timings,
    check: Callable[[], object],
) -> None:
    """Write all answers; `check` is called before every step and may raise."""
    start = time.perf_counter()
    logits = batch.prefill(prompts, check)
    running = list(range(len(answers)))
    while True:
        tokens = [answers[i].choose(row) for i, row in zip(running, logits, strict=True)]
        elapsed = (time.perf_counter() - start) * 1e3
        if timings.tokens:
            timings.token_ms.append(elapsed)
        else:
            timings.first_token_ms = elapsed
        timings.tokens += 1
        for place, (i, token) in enumerate(zip(running, tokens, strict=True)):
            answers[i].write(token, batch.full(place))
        going = [place for place, i in enumerate(running) if not answers[i].stopped_by]
        if not going:
            timings.stopped_by = answers[running[0]].stopped_by
            return
        start = time.perf_counter()
        check()
        if len(going) < len(running):
            batch.keep(going)
            running, tokens = [running[place] for place in going], [tokens[place] for place in going]
        logits = batch.decode(tokens)
