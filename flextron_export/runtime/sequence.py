"""One sequence of tokens in a session: prefill in chunks, decode token by token, a cache that grows as it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..elastic.widths import Budget
from ..targets.session import Session
from .capacity import capacity_for

CHUNK = 256
"""Tokens per prefill call: enough to keep the cores busy, few enough to bound the memory of activations."""


class LiveSequence:
    """Tokens of one sequence (batch 1) at one budget.

    Args:
        session: where it runs.
        budget: the sub-network.
        maximum: most tokens the sequence may hold.
        chunk: tokens per prefill call.
        capacity: cache slots to begin with; by default what the first call needs.

    Attributes:
        ids: the tokens it holds, one per slot in use.
        mixed: whether a wider budget computed some of them.
    """

    def __init__(
        self, session: Session, budget: Budget, maximum: int, *, chunk: int = CHUNK, capacity: int | None = None
    ) -> None:
        self.session, self.budget, self.maximum, self.chunk = session, budget, maximum, chunk
        self.ids: list[int] = []
        self.mixed = False
        self.cache: Any = None if capacity is None else session.new_cache(budget, 1, capacity)
        # Reused by every decode step, so that a token allocates nothing.
        self._token = np.zeros((1, 1), np.int64)
        self._position = np.zeros((1, 1), np.int64)
        self._write = np.zeros(1, np.int64)
        self._row = np.zeros(1, np.int64)

    @property
    def length(self) -> int:
        """Slots in use."""
        return len(self.ids)

    def cut(self, tokens: int) -> None:
        """Forget what comes after the first `tokens`; later calls overwrite it."""
        del self.ids[tokens:]

    def copy(self, tokens: int, capacity: int) -> LiveSequence:
        """A sequence of its own that holds the first `tokens`, in a cache of `capacity` slots."""
        new = LiveSequence(self.session, self.budget, self.maximum, chunk=self.chunk)
        new.cache, new.ids = self.session.copy(self.cache, (0,), tokens, capacity), self.ids[:tokens]
        return new

    def change(self, budget: Budget) -> None:
        """Go on at another budget.

        A narrower one reads its groups of the cache where they lie, as the wider budget computed them; for any other,
        all tokens are computed anew.

        Raises:
            TargetError: the target cannot run two budgets over one cache.
        """
        if all(new.groups <= old.groups for new, old in zip(budget.layers, self.budget.layers, strict=True)):
            self.cache, self.budget, self.mixed = self.session.narrowed(self.cache, budget), budget, True
            return
        ids = self.ids
        self.budget, self.cache, self.ids, self.mixed = budget, None, [], False
        self.prefill(ids)

    def prefill(self, ids: Sequence[int] | np.ndarray, before: Callable[[], None] = lambda: None) -> np.ndarray:
        """Append tokens; return the float32 logits [vocab] after the last one, valid until the next call.

        `before` is called before every chunk; if it raises, the chunks before it stay.
        """
        ids = np.asarray(ids, np.int64)
        self.reserve(self.length + len(ids))
        for start in range(0, len(ids), self.chunk):
            before()
            part = ids[None, start : start + self.chunk]
            positions = np.arange(self.length, self.length + part.shape[1], dtype=np.int64)[None]
            write = np.array([self.length], np.int64)
            # One row of logits per chunk: the LM head is the largest matrix of a small model.
            logits = self.session.step(self.cache, part, positions, write, np.array([part.shape[1] - 1], np.int64))
            self.ids.extend(part[0].tolist())
        return logits[0]

    def append(self, ids: Sequence[int]) -> np.ndarray:
        """Append a few tokens in one call; return the float32 logits [len(ids), vocab] after each, valid until the
        next call."""
        self.reserve(self.length + len(ids))
        slots = np.arange(self.length, self.length + len(ids), dtype=np.int64)
        logits = self.session.step(self.cache, np.array([ids], np.int64), slots[None], slots[:1], slots - slots[0])
        self.ids.extend(ids)
        return logits

    def decode(self, token: int) -> np.ndarray:
        """Append one token; return the float32 logits [vocab] after it, valid until the next call."""
        self.reserve(self.length + 1)
        self._token[0, 0] = token
        self._position[0, 0] = self._write[0] = self.length
        logits = self.session.step(self.cache, self._token, self._position, self._write, self._row)
        self.ids.append(token)
        return logits[0]

    def reserve(self, tokens: int) -> None:
        """Make the cache hold at least that many tokens; a session may round its capacity up."""
        if self.cache is None:
            self.cache = self.session.new_cache(self.budget, 1, capacity_for(tokens, self.maximum))
        elif tokens > self.cache.capacity:
            self.session.grow(self.cache, capacity_for(tokens, self.maximum))
