"""Target `onnxruntime-cpu`: ONNX Runtime on the host's processor, every layout, no copy of the KV cache per token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.engines import FORMAT, MARKER, VERSION, engine_directory, source_hashes
from ..bundle.manifest import Bundle, weights_file
from ..elastic.safetensors import numpy_dtype
from ..elastic.widths import Budget
from ..errors import InputError, MissingDependencyError, TargetError
from ..files import write_json
from ..graph.contract import BITS, DTYPES, ROUTED, cache_names, cache_shapes, choices, weight_shapes
from ..progress import Track, silent
from ..version import __version__
from . import settle
from .cores import usable_cores
from .memory import drop_mapped_pages, private_memory

NAME = "onnxruntime-cpu"
DEFAULT_LAYOUT = "panels"
DEFAULT_DTYPE = "fp32"
LOW_MEMORY = True
AHEAD_OF_TIME = False
ANY_WIDTHS = True
SHORT = 16
"""Steps of up to that many tokens come again and again (decoding, verifying drafts), so they stay prepared."""


def check(bundle: Bundle, layout: str, dtype: str) -> None:
    """Every layout and precision runs; BundleError if the bundle does not hold the graph."""
    bundle.graphs(layout, dtype)


def library() -> Any:
    """The onnxruntime module; MissingDependencyError names the extra that brings it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "onnxruntime is not installed.", fix="pip install 'flextron-export[cpu]'"
        ) from error
    return onnxruntime


def versions() -> dict[str, str]:
    """Version of each library that decides how fast and how a graph runs."""
    return {"onnxruntime": library().__version__}


def device() -> dict[str, Any]:
    """Nothing besides the CPU."""
    return {}


def build(bundle: Bundle, *, layout: str, dtype: str, track: Track = silent, **limits: Any) -> dict[str, Any]:
    """ONNX Runtime compiles nothing ahead of time: run every budget once, and record that this release does.

    Returns:
        The record written to `engines/onnxruntime-cpu/<layout>.<dtype>/engine.json`.

    Raises:
        TargetError: ONNX Runtime refuses a graph.
    """
    if limits:
        raise InputError(f"{NAME} takes no {', '.join(sorted(limits))}.", cause="its graphs run at any size")
    seconds = {}
    session = open_session(bundle, layout=layout, dtype=dtype)
    for budget in track(bundle.budgets_of(layout), "running every budget once"):
        start = time.perf_counter()
        one = np.zeros(1, np.int64)
        session.step(session.new_cache(budget, 1, 1), one[None], one[None], one, one)
        seconds[budget.name] = round(time.perf_counter() - start, 3)
    session.close()
    record = {
        "format": FORMAT,
        "version": VERSION,
        "target": NAME,
        "library": "onnxruntime",
        "library_version": library().__version__,
        "layout": layout,
        "dtype": dtype,
        "source": source_hashes(bundle, layout, dtype),
        "first_run_seconds": seconds,
        "exporter": f"flextron_export {__version__}",
    }
    write_json(engine_directory(bundle.path, NAME, layout, dtype) / MARKER, record)
    return record


def open_session(
    bundle: Bundle,
    *,
    layout: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    low_memory: bool = False,
) -> OnnxRuntimeSession:
    """Load a bundle.

    Args:
        layout: `panels` by default, if exported: one copy of the weights serves every budget.
        dtype: `fp32` by default, if exported.
        threads: intra-op threads; all cores this process may use by default. On a busy machine one can be faster than
            two.
        low_memory: leave weights in the mapped file. By default ONNX Runtime rearranges constant weights in private
            memory, for speed.

    Raises:
        BundleError: the graph was not exported.
        TargetError: ONNX Runtime refuses the graph.
    """
    if layout is None or dtype is None:
        layout, dtype = settle(NAME, bundle, layout, dtype)
    if low_memory and dtype in BITS:
        raise TargetError(
            f"Precision {dtype} does not run with its weights left in the mapped file.",
            cause="ONNX Runtime multiplies them fast only as it rearranges them: else a token takes 100 times as long",
            fix=f"run without low memory: {dtype} is small; or use fp32, which runs in either way",
        )
    return OnnxRuntimeSession(bundle, layout, dtype, threads or usable_cores(), low_memory)


def load_graph(bundle: Bundle, graph: Path | bytes, *, threads: int, low_memory: bool = False) -> Any:
    """An `InferenceSession` for a graph of a bundle, or one made of it; TargetError if ONNX Runtime refuses it."""
    ort = library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Graphs lie in graphs/, the weights they refer to beside the manifest.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(bundle.path.resolve()))
    if low_memory:
        options.add_session_config_entry("session.disable_prepacking", "1")
    source, name = (graph, "a graph") if isinstance(graph, bytes) else (str(graph), str(graph))
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own that share no base but Exception
        raise TargetError(
            f"ONNX Runtime {ort.__version__} refuses {name}: {error}",
            cause="the graph or the weights it refers to are damaged, or this release lacks operators",
            fix=f"flextron-export verify {bundle.path}, or install onnxruntime 1.30 or newer",
        ) from error


@dataclass
class OnnxRuntimeCache:
    """KV cache in host memory: per name an array [batch, groups, capacity, head_dim], bound as input and output."""

    budget: Budget
    batch: int
    capacity: int
    arrays: dict[str, np.ndarray]
    calls: dict[tuple[int, int], Callable[[], None]] = field(default_factory=dict)
    tokens: dict[tuple[int, int], dict[str, np.ndarray]] = field(default_factory=dict)
    """(length, rows) -> the prepared call and the arrays its inputs and logits live in."""


class OnnxRuntimeSession:
    """See `Session`. `per-budget` loads a budget's graph when it is first used."""

    concurrent = True
    max_batch: int | None = None

    def __init__(self, bundle: Bundle, layout: str, dtype: str, threads: int, low_memory: bool) -> None:
        self.bundle, self.layout, self.dtype, self.threads, self.low_memory = bundle, layout, dtype, threads, low_memory
        self.float = numpy_dtype(DTYPES[dtype])
        self.max_capacity = bundle.architecture.max_positions
        self._ort = library()
        self._sessions: dict[Path, Any] = {}
        self._bound: dict[tuple[str, int], dict[str, Any]] = {}
        self._weights = bundle.weights(dtype) if layout == "shared" else None
        self._memory = 0
        self._lock = threading.Lock()  # what threads share grows only while a call is prepared
        if layout != "per-budget":
            self._session(bundle.graph(layout, dtype))

    def new_cache(self, budget: Budget, batch: int, capacity: int) -> OnnxRuntimeCache:
        shapes = cache_shapes(self.bundle.architecture, budget, batch, capacity)
        return OnnxRuntimeCache(
            budget, batch, capacity, {name: np.zeros(shape, self.float) for name, shape in shapes.items()}
        )

    def grow(self, cache: OnnxRuntimeCache, capacity: int) -> None:
        for name, old in cache.arrays.items():
            new = np.zeros((*old.shape[:2], capacity, old.shape[3]), old.dtype)
            new[:, :, : cache.capacity] = old
            cache.arrays[name] = new
        cache.capacity = capacity
        cache.calls.clear()
        cache.tokens.clear()

    def copy(self, cache: OnnxRuntimeCache, sequences: Sequence[int], tokens: int, capacity: int) -> OnnxRuntimeCache:
        new = self.new_cache(cache.budget, len(sequences), capacity)
        for name, old in cache.arrays.items():
            for to, source in enumerate(sequences):
                new.arrays[name][to, :, :tokens] = old[source, :, :tokens]
        return new

    def narrowed(self, cache: OnnxRuntimeCache, budget: Budget) -> OnnxRuntimeCache:
        if self.layout == ROUTED:
            raise TargetError(
                "Layout routed cannot run two budgets over one KV cache: every token chooses its own widths.",
                cause="speculative decoding and changes of the budget in a running generation need that",
                fix="run without them, or with --layout panels",
            )
        assert cache.batch == 1  # else the first groups would not be one range of memory
        shapes = cache_shapes(self.bundle.architecture, budget, 1, cache.capacity)
        arrays = {name: cache.arrays[name][:, : shape[1]] for name, shape in shapes.items()}
        return OnnxRuntimeCache(budget, 1, cache.capacity, arrays)

    def step(
        self, cache: OnnxRuntimeCache, ids: np.ndarray, positions: np.ndarray, write: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        if cache.batch > 1 and ids.shape[1] > 1 and write.any():
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
        """`step` with several tokens behind others in several sequences, which ONNX Runtime's attention refuses."""
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
        session = self._session(self._graph(cache.budget))
        value = self._ort.OrtValue.ortvalue_from_numpy  # wraps the array's memory on CPU
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
            held.append(value(cache.arrays[name]))
            binding.bind_ortvalue_input(name, held[-1])
            binding.bind_ortvalue_output(f"{name}.out", held[-1])
        for name, bound in self._budget_inputs(cache.budget, cache.batch).items():
            binding.bind_ortvalue_input(name, bound)
        cache.tokens[length, count] = tokens
        cache.calls[length, count] = lambda held=held: session.run_with_iobinding(binding)  # type: ignore[misc]  # keeps the values alive

    def _graph(self, budget: Budget) -> Path:
        return self.bundle.graph(self.layout, self.dtype, budget.name)

    def _budget_inputs(self, budget: Budget, batch: int = 1) -> dict[str, Any]:
        """What a budget adds to the inputs.

        Candidate indices (`panels`), prefixes of the mapped weights (`shared`), every sequence's target (`routed`).
        """
        key = budget.name, batch if self.layout == ROUTED else 0
        if key not in self._bound:
            arrays = choices(self.layout, self.bundle.candidates, budget, batch, self.bundle.targets)
            if self._weights is not None:
                arrays = {
                    name: self._weights[name][: shape[0]]
                    for name, shape in weight_shapes(self.bundle.architecture, budget).items()
                }
            self._bound[key] = {name: self._ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        return self._bound[key]

    def _session(self, graph: Path) -> Any:
        if graph not in self._sessions:
            before = private_memory()
            self._sessions[graph] = load_graph(self.bundle, graph, threads=self.threads, low_memory=self.low_memory)
            if not self.low_memory:
                drop_mapped_pages(self.bundle.path / weights_file(self.dtype))
            self._memory += max(private_memory() - before, 0)
        return self._sessions[graph]
