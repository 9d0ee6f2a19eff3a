"""Where the arrays lie that a session keeps between calls: KV caches, and in layout `shared` the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .provider import library


class Tensor(Protocol):
    """An array of the host, or the beginning of one on a device."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Placement(Protocol):
    """A place for arrays."""

    remote: bool
    """Whether ONNX Runtime copies what a call reads from the host when it is bound, so that it must be bound again."""

    def put(self, array: np.ndarray) -> Any:
        """The array there; where that is the host, the same memory."""

    def get(self, tensor: Any) -> np.ndarray:
        """Its content on the host, to be read."""

    def prefix(self, tensor: Any, axis: int, count: int) -> Any:
        """The first `count` along an axis, in the same memory; all axes before it have size 1."""

    def bind_input(self, binding: Any, name: str, tensor: Any) -> Any:
        """Let a call read it; what is returned must live as long as the binding."""

    def bind_output(self, binding: Any, name: str, tensor: Any) -> Any:
        """Let a call write it."""


class Host:
    """The memory of the processor: arrays are NumPy's."""

    remote = False

    def put(self, array: np.ndarray) -> np.ndarray:
        return array

    def get(self, tensor: np.ndarray) -> np.ndarray:
        return tensor

    def prefix(self, tensor: np.ndarray, axis: int, count: int) -> np.ndarray:
        return tensor[(slice(None),) * axis + (slice(count),)]

    def bind_input(self, binding: Any, name: str, tensor: np.ndarray) -> Any:
        value = _wrapped(tensor)
        binding.bind_ortvalue_input(name, value)
        return value

    def bind_output(self, binding: Any, name: str, tensor: np.ndarray) -> Any:
        value = _wrapped(tensor)
        binding.bind_ortvalue_output(name, value)
        return value


def _wrapped(array: np.ndarray) -> Any:
    """The memory of an array as an OrtValue."""
    if array.dtype.name == "float8_e4m3fn":  # which ONNX Runtime does not know by name
        return library().OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint8), FLOAT8)
    return library().OrtValue.ortvalue_from_numpy(array)


HOST = Host()
FLOAT8 = 17
"""ONNX's number for the type float8 e4m3fn."""


@dataclass(frozen=True)
class DeviceTensor:
    """The beginning of an array on a device."""

    value: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Device:
    """The memory of a device, by ONNX Runtime's allocator; calls are given addresses.

    Args:
        name: ONNX Runtime's name of the kind of device, such as `cuda`.
    """

    name: str
    remote = True

    def put(self, array: np.ndarray) -> DeviceTensor:
        array = np.ascontiguousarray(array)
        value = library().OrtValue.ortvalue_from_numpy(array, self.name, 0)
        # On the processor the value is the array's own memory.
        return DeviceTensor((value, array if self.name == "cpu" else None), array.shape, array.dtype)

    def get(self, tensor: DeviceTensor) -> np.ndarray:
        whole: np.ndarray = tensor.value[0].numpy()
        return whole[tuple(slice(size) for size in tensor.shape)]

    def prefix(self, tensor: DeviceTensor, axis: int, count: int) -> DeviceTensor:
        assert all(size == 1 for size in tensor.shape[:axis])  # else it would not be the beginning of the memory
        shape = (*tensor.shape[:axis], count, *tensor.shape[axis + 1 :])
        return DeviceTensor(tensor.value, shape, tensor.dtype)

    def bind_input(self, binding: Any, name: str, tensor: DeviceTensor) -> Any:
        self._bind(binding.bind_input, name, tensor)
        return tensor

    def bind_output(self, binding: Any, name: str, tensor: DeviceTensor) -> Any:
        self._bind(binding.bind_output, name, tensor)
        return tensor

    def _bind(self, bind: Any, name: str, tensor: DeviceTensor) -> None:
        address = tensor.value[0].data_ptr()
        bind(name, self.name, 0, tensor.dtype.type, list(tensor.shape), address)
