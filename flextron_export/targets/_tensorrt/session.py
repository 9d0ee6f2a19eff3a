"""Running engines on the GPU: weights uploaded once, KV caches updated in place.

NEVER RUN ON A GPU YET. The logic is tested with host memory in place of CUDA and ONNX Runtime in place of the engine;
the calls to TensorRT and CUDA themselves are written from their documentation.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle.manifest import Bundle
from ...elastic.safetensors import item_size
from ...elastic.widths import Budget
from ...errors import TargetError
from ...graph.contract import DTYPES, StepShape
from .binding import Binding, Layout, bind, cache_layout, fitting_capacity, pieces
from .contexts import Contexts
from .cuda import Cuda
from .record import EngineRecord


@dataclass
class TensorRTCache:
    """KV cache in one device buffer; freed with this object. `capacity` is one that an engine was built for."""

    budget: Budget
    batch: int
    capacity: int
    layout: Layout
    address: int
    free: Any


class TensorRTSession:
    """See `Session`. Engines are loaded when they are first used."""

    concurrent = False

    def __init__(self, library: Any, bundle: Bundle, directory: Path, record: EngineRecord) -> None:
        self.bundle, self.directory, self.record = bundle, directory, record
        self.max_capacity = record.capacities[-1]
        self.max_batch: int | None = record.max_batch
        self._library, self._cuda = library, Cuda()
        capturable = record.layout in ("shared", "per-budget")  # conditionals are decided on the way
        self._contexts = Contexts(library, self._cuda, directory, capturable, record.rebuild)
        self._choices: dict[tuple[str, int], tuple[Layout, np.ndarray, int]] = {}
        self._memory = 0
        self._tokens = self._token_buffers()
        self._weights = self._upload_weights() if record.layout == "shared" else {}

    def new_cache(self, budget: Budget, batch: int, capacity: int) -> TensorRTCache:
        capacity = fitting_capacity(self.record, capacity)
        layout = cache_layout(self.bundle, self.record.dtype, budget, batch, capacity)
        address = self._cuda.allocate(layout.bytes)
        cache = TensorRTCache(budget, batch, capacity, layout, address, None)
        cache.free = weakref.finalize(cache, self._cuda.free, address)
        return cache

    def grow(self, cache: TensorRTCache, capacity: int) -> None:
        new = self.new_cache(cache.budget, cache.batch, capacity)
        if new.capacity > cache.capacity:
            self._copy(new, cache, range(cache.batch), cache.capacity)
            cache.free()
            new.free.detach()
            cache.capacity, cache.layout, cache.address = new.capacity, new.layout, new.address
            cache.free = weakref.finalize(cache, self._cuda.free, cache.address)

    def copy(self, cache: TensorRTCache, sequences: Sequence[int], tokens: int, capacity: int) -> TensorRTCache:
        new = self.new_cache(cache.budget, len(sequences), capacity)
        self._copy(new, cache, sequences, tokens)
        return new

    def narrowed(self, cache: TensorRTCache, budget: Budget) -> TensorRTCache:
        raise TargetError(
            f"{self.record.target} cannot run two budgets over one KV cache yet.",
            cause="speculative decoding and changes of the budget in a running generation need that",
            fix="run without them, or on onnxruntime-cpu",
        )

    def _copy(self, new: TensorRTCache, old: TensorRTCache, sequences: Sequence[int], tokens: int) -> None:
        slot = self.bundle.architecture.head_dim * item_size(DTYPES[self.record.dtype])
        old_row, new_row = old.capacity * slot, new.capacity * slot  # one row per sequence and group
        for name, offset in old.layout.offsets.items():
            groups = old.budget.layers[int(name.split(".")[1])].groups
            for number, sequence in enumerate(sequences):
                to = new.address + new.layout.offsets[name] + number * groups * new_row
                source = old.address + offset + sequence * groups * old_row
                self._cuda.copy_rows(to, new_row, source, old_row, tokens * slot, groups)
        self._cuda.wait()

    def step(
        self, cache: TensorRTCache, ids: np.ndarray, positions: np.ndarray, write: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        logits = np.empty((len(rows), self.bundle.architecture.vocab_size), np.float32)
        # The engine computes as many rows of logits as it takes sequences; whoever wants more gets them in more calls.
        for piece in pieces(ids.shape[1], rows, self.record.max_length, self.record.max_batch):
            tokens = {
                "ids": ids[:, piece.start : piece.stop],
                "positions": positions[:, piece.start : piece.stop],
                "write": write + piece.start,
                "rows": np.array(piece.rows),
            }
            found = self._call(cache, {n: np.ascontiguousarray(v, np.int64) for n, v in tokens.items()})
            logits[list(piece.into)] = found[: len(piece.into)]
        return logits

    def memory(self) -> int:
        return self._memory + self._contexts.memory()

    def close(self) -> None:
        self._cuda.wait()
        self._contexts.close()
        for address in (*self._tokens.values(), *(address for _, _, address in self._choices.values())):
            self._cuda.free(address)
        if self._weights:
            self._cuda.free(min(self._weights.values()))
        self._cuda.close()

    def _call(self, cache: TensorRTCache, tokens: dict[str, np.ndarray]) -> np.ndarray:
        step = StepShape(cache.batch, tokens["ids"].shape[1], cache.capacity, len(tokens["rows"]))
        binding = bind(self.bundle, self.record, cache.budget, step)
        context = self._contexts.get(binding.plan, binding.profile)
        # A decode step differs from the last one only in what the token buffers hold.
        key = (step, cache.budget.name, cache.address)
        if context.key != key:
            context.renew(None)
            self._prepare(context.execution, binding, cache)
            context.renew(key)
        for name, array in tokens.items():
            self._cuda.upload(self._tokens[name], array)
        if not context.run(repeats=step.length == 1):
            raise TargetError(f"TensorRT could not run {binding.plan}.", fix="see its messages above")
        logits = np.empty(binding.logits, np.float32)
        self._cuda.download(logits, self._tokens["logits"])
        self._cuda.wait()
        return logits

    def _prepare(self, context: Any, binding: Binding, cache: TensorRTCache) -> None:
        """Set the shape and address of every tensor."""
        addresses = {**self._tokens, **{name: self._weights[name] for name in binding.weights}}
        addresses.update(self._choice_addresses(context.engine, cache.budget, cache.batch, binding))
        for name, output in binding.in_place.items():
            addresses[name] = addresses[output] = cache.address + cache.layout.offsets[name]
        for name, shape in binding.shapes.items():
            if not context.set_input_shape(name, shape):
                raise TargetError(
                    f"The engine {binding.plan} refuses shape {shape} of {name}.", fix=self.record.rebuild()
                )
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise TargetError(f"The engine {binding.plan} has no tensor {name}.", fix=self.record.rebuild())

    def _upload_weights(self) -> dict[str, int]:
        """Every weight, whole and once: name -> address."""
        weights = self.bundle.weights(self.record.dtype)
        layout = Layout.of((name, info.length) for name, info in weights.tensors.items())
        base = self._cuda.allocate(layout.bytes)
        for name, offset in layout.offsets.items():
            self._cuda.upload(base + offset, weights.raw(name))
        self._cuda.wait()
        self._memory += layout.bytes
        return {name: base + offset for name, offset in layout.offsets.items()}

    def _token_buffers(self) -> dict[str, int]:
        """Buffers for the largest call: name -> address."""
        batch, vocab = self.record.max_batch, self.bundle.architecture.vocab_size
        tokens = batch * self.record.max_length * 8
        sizes = {"ids": tokens, "positions": tokens, "write": batch * 8, "rows": batch * 8, "logits": batch * vocab * 4}
        return {name: self._cuda.allocate(size) for name, size in sizes.items()}

    def _choice_addresses(self, engine: Any, budget: Budget, batch: int, binding: Binding) -> dict[str, int]:
        """Addresses of the inputs that choose the budget: on the device, or on the host where the engine reads it."""
        if not binding.choices:
            return {}
        key = budget.name, batch
        if key not in self._choices:
            layout = Layout.of((name, array.nbytes) for name, array in binding.choices.items())
            host = np.zeros(layout.bytes, np.uint8)
            for name, array in binding.choices.items():
                host[layout.offsets[name] :][: array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
            address = self._cuda.allocate(layout.bytes)
            self._cuda.upload(address, host)
            self._cuda.wait()
            self._choices[key] = layout, host, address
        layout, host, address = self._choices[key]
        on_host = self._library.TensorLocation.HOST
        return {
            name: (host.ctypes.data if engine.get_tensor_location(name) == on_host else address) + offset
            for name, offset in layout.offsets.items()
        }
