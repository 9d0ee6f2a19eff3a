"""Sessions on providers that compile a graph for shapes: TensorRT's and TensorRT-RTX's.

A provider compiles when a session is made, and keeps what it compiled in a folder, so that the next one starts at once.
There is one session for each budget: its widths are exact, its cache has the one capacity that was built, and batch,
length and rows vary within one range. In layout `shared` the weights are inputs, on the device once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.manifest import Bundle
from ...elastic.widths import Budget
from ...errors import TargetError
from .._tensorrt.binding import pieces
from .._tensorrt.profiles import Limits, profiles
from .loading import load_graph
from .placement import Placement
from .provider import Provider
from .session import OnnxRuntimeCache, OnnxRuntimeSession

CAPACITY = "C"
"""The graphs' symbol for the cache's capacity, which TensorRT wants as a number."""


def shape_ranges(bundle: Bundle, layout: str, limits: Limits, budget: Budget) -> tuple[str, str, str]:
    """Smallest, typical and largest shapes of all inputs of a budget, as the providers take them: `ids:1x1,write:1`.

    Typical are those of a decode step, which comes most often.
    """
    decode, prefill = profiles(bundle, layout, limits, limits.capacities[-1], [budget])
    shapes = (
        {name: sizes[0] for name, sizes in decode.shapes.items()},
        {name: sizes[1] for name, sizes in decode.shapes.items()},
        {name: sizes[2] for name, sizes in prefill.shapes.items()},
    )
    low, typical, high = (
        ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in chosen.items()) for chosen in shapes
    )
    return low, typical, high


def tensorrt_settings(ranges: tuple[str, str, str], cache: Path) -> dict[str, str]:
    """Options of the TensorRT provider; engines are kept in `cache`."""
    low, typical, high = ranges
    return {
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_profile_min_shapes": low,
        "trt_profile_opt_shapes": typical,
        "trt_profile_max_shapes": high,
    }


def tensorrt_rtx_settings(ranges: tuple[str, str, str], cache: Path) -> dict[str, str]:
    """Options of the TensorRT-RTX provider; kernels are kept in `cache`."""
    low, typical, high = ranges
    return {
        "nv_runtime_cache_path": str(cache),
        "nv_profile_min_shapes": low,
        "nv_profile_opt_shapes": typical,
        "nv_profile_max_shapes": high,
    }


class CompiledSession(OnnxRuntimeSession):
    """See `Session`; a budget's session is made when it is first used.

    Args:
        limits: what it must take; the largest capacity counts.
        settings: makes the provider's options of `shape_ranges` and the folder.
        folder: what the provider compiled.
    """

    concurrent = False

    def __init__(
        self,
        bundle: Bundle,
        layout: str,
        dtype: str,
        threads: int,
        *,
        provider: Provider,
        placement: Placement,
        limits: Limits,
        settings: Any,
        folder: Path,
    ) -> None:
        self.limits, self.folder, self._settings = limits, folder, settings
        self._compiled: dict[str, Any] = {}
        super().__init__(bundle, layout, dtype, threads, provider=provider, placement=placement)
        self.max_capacity, self.max_batch = limits.capacities[-1], limits.max_batch

    def new_cache(self, budget: Budget, batch: int, capacity: int) -> OnnxRuntimeCache:
        self._check(capacity, batch)
        return super().new_cache(budget, batch, self.max_capacity)

    def grow(self, cache: OnnxRuntimeCache, capacity: int) -> None:
        self._check(capacity, cache.batch)  # every cache has the one capacity there is

    def copy(self, cache: OnnxRuntimeCache, sequences: Sequence[int], tokens: int, capacity: int) -> OnnxRuntimeCache:
        self._check(capacity, len(sequences))
        return super().copy(cache, sequences, tokens, self.max_capacity)

    def step(
        self, cache: OnnxRuntimeCache, ids: np.ndarray, positions: np.ndarray, write: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        logits = np.empty((len(rows), self.bundle.architecture.vocab_size), np.float32)
        for piece in pieces(ids.shape[1], rows, self.limits.max_length, self.limits.max_batch):
            part, asked = slice(piece.start, piece.stop), np.array(piece.rows)
            found = super().step(cache, ids[:, part], positions[:, part], write + piece.start, asked)
            logits[list(piece.into)] = found[: len(piece.into)]
        return logits

    def close(self) -> None:
        self._compiled.clear()
        super().close()

    def _check(self, capacity: int, batch: int) -> None:
        if capacity > self.max_capacity or batch > self.limits.max_batch:
            raise TargetError(
                f"This engine takes up to {self.limits.max_batch} sequences of {self.max_capacity} tokens, not {batch} "
                f"of {capacity}.",
                fix="build it again with --max-batch and --capacity",
            )

    def _preload(self) -> None:
        pass

    def _session(self, cache: OnnxRuntimeCache) -> Any:
        name = cache.budget.name
        if name not in self._compiled:
            ranges = shape_ranges(self.bundle, self.layout, self.limits, cache.budget)
            self._compiled[name] = load_graph(
                self.bundle,
                self._graph(cache.budget),
                threads=self.threads,
                provider=self.provider,
                settings=self._settings(ranges, self.folder),
                dimensions={CAPACITY: self.max_capacity},
            )
        return self._compiled[name]
