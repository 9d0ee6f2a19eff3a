"""Read and write safetensors files without copying: memory-mapped views in, one tensor at a time out.

The format (github.com/huggingface/safetensors): 8 bytes header length, a JSON header, then the tensors without gaps.
The `safetensors` library copies every tensor on reading and wants all of them in memory on writing; a runner that maps
weights and an exporter of models larger than memory can afford neither.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, FlextronError
from ..progress import Track, silent

_NUMPY = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
    "BF16": "bfloat16",
}
_ALIGNMENT = 4096
"""Tensor data starts on a page, so that a mapped file can be handed to a runtime as it is."""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `offset` and `length` are bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the first dimension."""
        return self.length // self.shape[0]


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy dtype of a safetensors dtype name; bfloat16 comes from ml_dtypes."""
    if name == "BF16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(_NUMPY[name])


class SafetensorsFile:
    """A memory-mapped safetensors file: a mapping from tensor name to a read-only view.

    Raises:
        error (CheckpointError unless given): the file is missing, truncated or not safetensors.
    """

    def __init__(self, path: Path, error: type[FlextronError] = CheckpointError) -> None:
        self.path = Path(path)
        try:
            self.size = self.path.stat().st_size
            self.tensors = self._read_header()
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise error(
                f"{path} cannot be read as safetensors: {problem}.",
                cause="the file is truncated, altered or of another format",
                fix="copy it again",
            ) from problem
        self._bytes = np.memmap(self.path, np.uint8, "r") if self.size else np.empty(0, np.uint8)

    def _read_header(self) -> dict[str, TensorInfo]:
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(self.size - 8, 100_000_000):
                raise ValueError("the header does not fit in the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors, start = {}, 8 + length
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            shape = tuple(int(n) for n in entry["shape"])
            size = numpy_dtype(entry["dtype"]).itemsize * int(np.prod(shape, dtype=object))
            if min(shape, default=1) < 0 or not 0 <= begin <= end or end - begin != size:
                raise ValueError(f"tensor {name!r} has a size that does not fit its shape")
            if start + end > self.size:
                raise ValueError(f"tensor {name!r} lies beyond the end of the file ({self.size} bytes)")
            tensors[name] = TensorInfo(entry["dtype"], shape, start + begin, end - begin)
        return tensors

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> np.ndarray:
        info = self.tensors[name]
        return self._bytes[info.offset : info.offset + info.length].view(numpy_dtype(info.dtype)).reshape(info.shape)

    def read(self, name: str) -> np.ndarray:
        """A copy of a tensor: for one pass over files larger than memory, as mapped pages would stay resident."""
        info = self.tensors[name]
        dtype = numpy_dtype(info.dtype)
        return np.fromfile(self.path, dtype, info.length // dtype.itemsize, offset=info.offset).reshape(info.shape)


@dataclass(frozen=True)
class TensorPlan:
    """A tensor to be written: its dtype, shape and the function that makes it when its turn comes."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def write_safetensors(path: Path, plans: Mapping[str, TensorPlan], track: Track = silent) -> str:
    """Write tensors one at a time, so that memory holds a single one, and return the file's SHA-256.

    Tensors whose size keeps the next one aligned to 64 bytes come first.

    Args:
        path: the file; the caller writes it inside a temporary directory.
        plans: name -> plan.
        track: shows progress over the tensors.
    """
    sizes = {name: numpy_dtype(p.dtype).itemsize * int(np.prod(p.shape, dtype=object)) for name, p in plans.items()}
    order = sorted(plans, key=lambda name: sizes[name] % 64 != 0)
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        header[name] = {
            "dtype": plans[name].dtype,
            "shape": list(plans[name].shape),
            "data_offsets": [offset, offset + sizes[name]],
        }
        offset += sizes[name]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def put(data: Any) -> None:
            file.write(data)
            digest.update(data)

        put(len(text).to_bytes(8, "little") + text)
        for name in track(order, f"writing {path.name}"):
            plan = plans[name]
            array = np.ascontiguousarray(plan.make(), dtype=numpy_dtype(plan.dtype))
            if array.shape != plan.shape:
                raise ValueError(f"{name} has shape {array.shape}, planned was {plan.shape}")
            put(array.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
