"""One thread at a time for a session that several threads share but that cannot serve them at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..elastic.widths import Budget
from ..targets.session import Cache, Session


class SerialSession:
    """See `Session`. Generations take turns step by step, so that none waits for the whole of another."""

    concurrent = True

    def __init__(self, session: Session) -> None:
        self._session, self._lock = session, threading.Lock()
        self.max_capacity, self.max_batch = session.max_capacity, session.max_batch

    def new_cache(self, budget: Budget, batch: int, capacity: int) -> Cache:
        with self._lock:
            return self._session.new_cache(budget, batch, capacity)

    def grow(self, cache: Any, capacity: int) -> None:
        with self._lock:
            self._session.grow(cache, capacity)

    def copy(self, cache: Any, sequences: Sequence[int], tokens: int, capacity: int) -> Cache:
        with self._lock:
            return self._session.copy(cache, sequences, tokens, capacity)

    def narrowed(self, cache: Any, budget: Budget) -> Cache:
        with self._lock:
            return self._session.narrowed(cache, budget)

    def step(
        self, cache: Any, ids: np.ndarray, positions: np.ndarray, write: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        with self._lock:
            return self._session.step(cache, ids, positions, write, rows)

    def memory(self) -> int:
        return self._session.memory()

    def close(self) -> None:
        with self._lock:
            self._session.close()
