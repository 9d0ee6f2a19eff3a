"""Read and write safetensors files without copying: memory-mapped views in, one tensor at a time out.

The format (github.com/huggingface/safetensors): 8 bytes header length, a JSON header, then the tensors without gaps.
The `safetensors` library copies every tensor on reading and wants all of them in memory on writing; a runner that maps
weights and an exporter of models larger than memory can afford neither.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, FlextronError, MissingDependencyError
from ..files import MALFORMED, integers
from ..progress import Track, silent

_NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_ML_DTYPES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn"}
_SIZES = {**{name: np.dtype(kind).itemsize for name, kind in _NUMPY.items()}, "BF16": 2, "F8_E4M3": 1}
_ALIGNMENT = 4096
"""Tensor data starts on a page, so that a mapped file can be handed to a runtime as it is."""

_LARGEST_HEADER = 100_000_000


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
    """NumPy dtype of a safetensors dtype name; bfloat16 and float8 come from ml_dtypes.

    Raises:
        ValueError: there is no such dtype, or NumPy has none for it.
        MissingDependencyError: ml_dtypes is not installed.
    """
    if name in _ML_DTYPES:
        try:
            import ml_dtypes
        except ImportError as error:
            raise MissingDependencyError(
                f"{_ML_DTYPES[name]} weights need ml_dtypes.", fix="pip install 'flextron-export[export]'"
            ) from error
        return np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))
    if name not in _NUMPY:
        raise ValueError(f"dtype {name!r} is not supported")
    return np.dtype(_NUMPY[name])


def item_size(name: str) -> int:
    """Bytes of one number of a safetensors dtype name; ValueError if there is no such dtype."""
    if name not in _SIZES:
        raise ValueError(f"dtype {name!r} is not supported")
    return _SIZES[name]


class SafetensorsFile:
    """A memory-mapped safetensors file: a mapping from tensor name to a read-only view.

    Raises:
        error (CheckpointError unless given): the file is missing, truncated or not safetensors.
    """

    def __init__(self, path: Path, error: type[FlextronError] = CheckpointError) -> None:
        self.path = Path(path)
        try:
            if not self.path.is_file():  # opening a pipe would wait for ever
                raise ValueError("it is missing or no file")
            self.size = self.path.stat().st_size
            self.tensors = self._read_header()
        except (OSError, *MALFORMED) as problem:
            raise error(
                f"{path} cannot be read as safetensors: {problem}.",
                cause="the file is truncated, altered or of another format",
                fix="copy it again",
            ) from problem
        self._bytes = np.memmap(self.path, np.uint8, "r") if self.size else np.empty(0, np.uint8)

    def _read_header(self) -> dict[str, TensorInfo]:
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(self.size - 8, _LARGEST_HEADER):
                raise ValueError("the header does not fit in the file")
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        tensors, start = {}, 8 + length
        for name, entry in header.items():
            shape, (begin, end) = integers(entry["shape"]), integers(entry["data_offsets"])
            size = item_size(entry["dtype"]) * math.prod(shape)
            if min(shape, default=1) < 0 or not 0 <= begin <= end or end - begin != size:
                raise ValueError(f"tensor {name!r} has a size that does not fit its shape")
            tensors[name] = TensorInfo(entry["dtype"], shape, start + begin, size)
        end_before = start
        for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].length)):
            if info.offset != end_before:
                raise ValueError(f"tensor {name!r} does not begin where the one before it ends")
            end_before += info.length
        if end_before != self.size:
            raise ValueError(f"it has {self.size} bytes, its header describes {end_before}")
        return tensors

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> np.ndarray:
        info = self.tensors[name]
        return self.raw(name).view(numpy_dtype(info.dtype)).reshape(info.shape)

    def raw(self, name: str) -> np.ndarray:
        """The bytes of a tensor, of whatever dtype: uint8 [length]."""
        info = self.tensors[name]
        return self._bytes[info.offset : info.offset + info.length]

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
    sizes = {name: numpy_dtype(p.dtype).itemsize * math.prod(p.shape) for name, p in plans.items()}
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
            array = np.asarray(plan.make(), dtype=numpy_dtype(plan.dtype), order="C")
            if array.shape != plan.shape:
                raise ValueError(f"{name} has shape {array.shape}, planned was {plan.shape}")
            put(array.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice in the header")
    return dict(pairs)
