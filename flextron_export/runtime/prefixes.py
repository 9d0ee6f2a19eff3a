"""Caches of earlier generations: a prompt that begins like an earlier one is not computed again from its beginning."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..elastic.widths import Budget
from ..errors import InputError
from .capacity import capacity_for
from .sequence import LiveSequence


class PrefixCache:
    """Sequences that have ended, most recently used last; threads may share it.

    Args:
        limit: how many are kept; with those that run, that is the number of KV caches in memory.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise InputError(f"{limit} caches cannot be kept.", fix="use 0 or more")
        self.limit = limit
        self._idle: list[LiveSequence] = []
        self._lock = threading.Lock()

    def take(self, budget: Budget, ids: Sequence[int], maximum: int) -> LiveSequence | None:
        """A sequence at that budget that holds a beginning of `ids`, all but the last at most; None if there is none.

        A cache no larger than a new one would be, whose tokens are mostly wanted, is taken as it is; of another the
        wanted slots are copied, as a cache costs memory, and some attention time, by capacity.
        """
        with self._lock:
            found = [(_common(s.ids, ids), s) for s in self._idle if s.budget.name == budget.name]
            common, best = max(found, key=lambda pair: pair[0], default=(0, None))
            if best is None or common == 0:
                del self._idle[: max(len(self._idle) - self.limit + 1, 0)]  # the new one needs room
                return None
            self._idle.remove(best)
            capacity = capacity_for(len(ids), maximum)
            mostly = 2 * common >= best.length or self.limit == 1
            if best.cache.capacity <= capacity and mostly:
                best.cut(common)
                return best
            copy = best.copy(common, capacity)
            if self.limit > 1:
                self._idle.append(best)
                del self._idle[: max(len(self._idle) - self.limit + 1, 0)]
            return copy

    def give(self, sequence: LiveSequence) -> None:
        """Keep a sequence that has ended, unless it is no one budget's."""
        if sequence.mixed:
            return
        with self._lock:
            self._idle.append(sequence)
            del self._idle[: max(len(self._idle) - self.limit, 0)]

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._idle.clear()


def _common(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Tokens that both begin with; not the last wanted one, whose logits must be computed."""
    most = min(len(held), len(wanted) - 1)
    return next((i for i in range(most) if held[i] != wanted[i]), most)
