"""What a target gives to the runtime: a session that runs the graph contract for any budget, and its KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..elastic.widths import Budget


class Cache(Protocol):
    """The KV cache of one batch of sequences at one budget; it lives where the target computes."""

    budget: Budget
    batch: int
    capacity: int
    """Slots per sequence: the most tokens it can hold now."""


class Session(Protocol):
    """A loaded bundle on one target."""

    concurrent: bool
    """Whether several threads may use it at once, each with caches of its own; else one thread at a time."""
    max_capacity: int
    """Most slots a cache can have: the model's positions, or fewer if an engine was built for fewer."""
    max_batch: int | None
    """Most sequences a cache can have, or None if nothing limits them."""

    def new_cache(self, budget: Budget, batch: int, capacity: int) -> Cache:
        """An empty cache."""

    def grow(self, cache: Any, capacity: int) -> None:
        """Give the cache more slots in place, keeping what it holds."""

    def copy(self, cache: Any, sequences: Sequence[int], tokens: int, capacity: int) -> Cache:
        """A new cache of at least `capacity` slots that begins with the first `tokens` slots of some of the sequences.

        Args:
            cache: left as it is.
            sequences: indices into its batch; the new batch has them in this order.
            tokens: at most either capacity.
            capacity: slots per sequence.
        """

    def narrowed(self, cache: Any, budget: Budget) -> Cache:
        """The cache of one sequence as a narrower budget sees it: the first groups of every layer, in the same memory.

        It holds what the cache holds, and what is written through one is read through the other, until the cache grows.

        Args:
            cache: of one sequence.
            budget: has at most as many groups as the cache's own in every layer.

        Raises:
            TargetError: this target has no such view.
        """

    def step(
        self, cache: Any, ids: np.ndarray, positions: np.ndarray, write: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Run the tokens through the cache's budget.

        Args:
            cache: updated in place.
            ids: int64 [B, S].
            positions: int64 [B, S].
            write: int64 [B], slot of each sequence's first token.
            rows: int64 [N], indices into the B*S flattened tokens.

        Returns:
            float32 logits [N, vocab], valid until the next call with this cache.
        """

    def memory(self) -> int:
        """Bytes of weights this session keeps for itself (not counting memory-mapped pages)."""

    def close(self) -> None:
        """Release what is held."""
