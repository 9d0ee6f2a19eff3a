"""A bundle in ONNX Runtime: one session for every budget where the layout allows it, KV caches changed in place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.manifest import Bundle, weights_file
from ...elastic.safetensors import numpy_dtype
from ...elastic.widths import Budget
from ...errors import TargetError
from ...graph.contract import DTYPES, ROUTED, cache_names, cache_shapes, choices, weight_shapes
from ..memory import drop_mapped_pages, private_memory
from .loading import load_graph
from .placement import HOST, Placement
from .provider import CPU, Provider, library

SHORT = 16
"""Steps of up to that many tokens come again and again (decoding, verifying drafts), so they stay prepared."""
TOKENS = ("ids", "positions", "write", "rows")


@dataclass
class OnnxRuntimeCache:
    """KV cache: per name an array [batch, groups, capacity, head_dim] where the session computes, input and output."""

    budget: Budget
    batch: int
    capacity: int
    arrays: dict[str, Any]
    calls: dict[tuple[int, int], Callable[[], None]] = field(default_factory=dict)
    tokens: dict[tuple[int, int], dict[str, np.ndarray]] = field(default_factory=dict)
    """(length, rows) -> the prepared call and the arrays its inputs and logits live in."""


class OnnxRuntimeSession:
    """See `Session`. `per-budget` loads a budget's graph when it is first used.

    Args:
        placement: where caches and the weights of layout `shared` lie; by default on the host.
    """

    concurrent = True
    max_batch: int | None = None

    def __init__(
        self,
        bundle: Bundle,
        layout: str,
        dtype: str,
        threads: int,
        low_memory: bool = False,
        *,
        provider: Provider = CPU,
        placement: Placement = HOST,
    ) -> None:
        self.provider, self.placement = provider, placement
        self.bundle, self.layout, self.dtype, self.threads, self.low_memory = bundle, layout, dtype, threads, low_memory
        self.float = numpy_dtype(DTYPES[dtype])
        self.max_capacity = bundle.architecture.max_positions
        self._ort = library()
        self._sessions: dict[Path, Any] = {}
        self._bound: dict[tuple[str, int], dict[str, Any]] = {}
        self._memory = 0
        self._weights = self._placed_weights() if layout == "shared" else None
        self._lock = threading.Lock()  # what threads share grows only while a call is prepared
        self._preload()

    def new_cache(self, budget: Budget, batch: int, capacity: int) -> OnnxRuntimeCache:
        shapes = cache_shapes(self.bundle.architecture, budget, batch, capacity)
        put = self.placement.put
        return OnnxRuntimeCache(
            budget, batch, capacity, {name: put(np.zeros(shape, self.float)) for name, shape in shapes.items()}
        )

    def grow(self, cache: OnnxRuntimeCache, capacity: int) -> None:
        for name, old in cache.arrays.items():
            new = np.zeros((*old.shape[:2], capacity, old.shape[3]), self.float)
            new[:, :, : cache.capacity] = self.placement.get(old)
            cache.arrays[name] = self.placement.put(new)
        cache.capacity = capacity
        cache.calls.clear()
        cache.tokens.clear()

    def copy(self, cache: OnnxRuntimeCache, sequences: Sequence[int], tokens: int, capacity: int) -> OnnxRuntimeCache:
        arrays = {}
        for name, tensor in cache.arrays.items():
            old = self.placement.get(tensor)
            new = np.zeros((len(sequences), old.shape[1], capacity, old.shape[3]), self.float)
            for to, source in enumerate(sequences):
                new[to, :, :tokens] = old[source, :, :tokens]
            arrays[name] = self.placement.put(new)
        return OnnxRuntimeCache(cache.budget, len(sequences), capacity, arrays)

    def narrowed(self, cache: OnnxRuntimeCache, budget: Budget) -> OnnxRuntimeCache:
        if self.layout == ROUTED:
            raise TargetError(
                "Layout routed cannot run two budgets over one KV cache: every token chooses its own widths.",
                cause="speculative decoding and changes of the budget in a running generation need that",
                fix="run without them, or with --layout panels",
            )
        assert cache.batch == 1  # else the first groups would not be one range of memory
        shapes = cache_shapes(self.bundle.architecture, budget, 1, cache.capacity)
        arrays = {name: self.placement.prefix(cache.arrays[name], 1, shape[1]) for name, shape in shapes.items()}
        return OnnxRuntimeCache(budget, 1, cache.capacity, arrays)

    def step(
        self, cache: OnnxRuntimeCache, ids: np.ndarray, positions: np.ndarray, write: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        if cache.batch > 1 and ids.shape[1] > 1 and write.any() and not self.placement.remote:
            return self._one_by_one(cache, ids, positions, write, rows)
        key = (ids.shape[1], len(rows))
        if key not in cache.calls:
            for old in [old for old in cache.calls if old[0] > SHORT]:
                del cache.calls[old], cache.tokens[old]
            with self._lock:
                self._prepare(cache, *key)
        tokens = cache.tokens[key]
        for name, value in (("ids", ids), ("positions", positions), ("write", write), ("rows", rows)):
            tokens[name][...] = value
        try:
            cache.calls[key]()
        except Exception as error:  # see `_session`
            raise TargetError(
                f"ONNX Runtime {self._ort.__version__} cannot run {self._graph(cache.budget)}: {error}",
                cause="a token, position or cache slot out of range, or a damaged graph",
                fix=f"flextron-export verify {self.bundle.path}",
            ) from error
        return tokens["logits"]

    def _one_by_one(
        self, cache: OnnxRuntimeCache, ids: np.ndarray, positions: np.ndarray, write: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """`step` with several tokens behind others in several sequences, which ONNX Runtime's attention refuses.

        It is that of fp32 graphs, which run on the processor.
        """
        logits = np.empty((len(rows), self.bundle.architecture.vocab_size), np.float32)
        sequence, row = np.divmod(rows, ids.shape[1])
        for b in range(cache.batch):
            part = slice(b, b + 1)
            alone = OnnxRuntimeCache(
                cache.budget, 1, cache.capacity, {name: array[part] for name, array in cache.arrays.items()}
            )
            wanted = np.flatnonzero(sequence == b)
            # One row at least: the graph computes logits in every call.
            asked = row[wanted] if len(wanted) else np.zeros(1, np.int64)
            found = self.step(alone, ids[part], positions[part], write[part], asked)
            logits[wanted] = found[: len(wanted)]
        return logits

    def memory(self) -> int:
        # What a session takes from memory that the process has free already does not show as growth.
        packed = self.layout in ("panels", ROUTED) and not self.low_memory
        return max(self._memory, (self.bundle.path / weights_file(self.dtype)).stat().st_size if packed else 0)

    def close(self) -> None:
        self._sessions.clear()
        self._bound.clear()

    def _prepare(self, cache: OnnxRuntimeCache, length: int, count: int) -> None:
        """Bind the cache and token arrays once; every later call only changes what they hold."""
        session = self._session(cache)
        value = self._ort.OrtValue.ortvalue_from_numpy  # wraps the array's memory
        tokens: dict[str, np.ndarray] = {
            "ids": np.zeros((cache.batch, length), np.int64),
            "positions": np.zeros((cache.batch, length), np.int64),
            "write": np.zeros(cache.batch, np.int64),
            "rows": np.zeros(count, np.int64),
            "logits": np.zeros((count, self.bundle.architecture.vocab_size), np.float32),
        }
        binding = session.io_binding()
        held = [value(array) for array in tokens.values()]
        for name, held_value in zip(tokens, held, strict=True):
            if name == "logits":
                binding.bind_ortvalue_output(name, held_value)
            else:
                binding.bind_ortvalue_input(name, held_value)
        for name in cache_names(self.bundle.architecture):
            held.append(self.placement.bind_input(binding, name, cache.arrays[name]))
            held.append(self.placement.bind_output(binding, f"{name}.out", cache.arrays[name]))
        for name, tensor in self._budget_weights(cache.budget).items():
            held.append(self.placement.bind_input(binding, name, tensor))
        for name, bound in self._choices(cache.budget, cache.batch).items():
            binding.bind_ortvalue_input(name, bound)

        def call() -> None:
            if self.placement.remote:
                # What lies on the host was copied as it was bound.
                for name, held_value in zip(TOKENS, held, strict=False):
                    binding.bind_ortvalue_input(name, held_value)
            session.run_with_iobinding(binding)
            if self.placement.remote:
                binding.synchronize_outputs()

        cache.tokens[length, count], cache.calls[length, count] = tokens, call

    def _graph(self, budget: Budget) -> Path:
        return self.bundle.graph(self.layout, self.dtype, budget.name)

    def _choices(self, budget: Budget, batch: int) -> dict[str, Any]:
        """The inputs that choose the budget; see `choices`."""
        key = budget.name, batch if self.layout == ROUTED else 0
        if key not in self._bound:
            arrays = choices(self.layout, self.bundle.candidates, budget, batch, self.bundle.targets)
            self._bound[key] = {name: self._ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        return self._bound[key]

    def _budget_weights(self, budget: Budget) -> dict[str, Any]:
        """Layout `shared`: a budget's prefixes of the weights."""
        if self._weights is None:
            return {}
        shapes = weight_shapes(self.bundle.architecture, budget, self.bundle.quantization.get(self.dtype))
        return {name: self.placement.prefix(self._weights[name], 0, shape[0]) for name, shape in shapes.items()}

    def _placed_weights(self) -> dict[str, Any]:
        """Every weight, whole and once, where the session computes: mapped on the host, else copied."""
        weights = self.bundle.weights(self.dtype)
        if self.placement.remote:
            self._memory += sum(info.length for info in weights.tensors.values())
        return {name: self.placement.put(weights[name]) for name in weights.tensors}

    def _preload(self) -> None:
        if self.layout != "per-budget":
            self._loaded(self.bundle.graph(self.layout, self.dtype))

    def _session(self, cache: OnnxRuntimeCache) -> Any:
        return self._loaded(self._graph(cache.budget))

    def _loaded(self, graph: Path) -> Any:
        if graph not in self._sessions:
            before = private_memory()
            self._sessions[graph] = load_graph(
                self.bundle, graph, threads=self.threads, low_memory=self.low_memory, provider=self.provider
            )
            if not self.low_memory:
                drop_mapped_pages(self.bundle.path / weights_file(self.dtype))
            self._memory += max(private_memory() - before, 0)
        return self._sessions[graph]
