"""The CUDA device, asked through the driver alone: no toolkit, no Python binding, nothing to install."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from ...errors import TargetError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Device:
    """A GPU: its name, compute capability (89 means 8.9) and its driver's CUDA version (13000 means 13.0)."""

    name: str
    compute_capability: int
    driver: int


def find_device() -> Device | None:
    """The first CUDA device, or None if there is no driver or no device."""
    try:
        cuda: Any = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    device, major, minor, driver = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    calls = (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuDeviceGetName(name, len(name), device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        lambda: cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        lambda: cuda.cuDriverGetVersion(ctypes.byref(driver)),
    )
    if any(call() != 0 for call in calls):
        return None
    return Device(name.value.decode(errors="replace"), 10 * major.value + minor.value, driver.value)


def require_device(title: str) -> Device:
    """The first CUDA device.

    Raises:
        TargetError: there is none. A TensorRT runtime must not even be created then: without a driver it returned
            pointers to nothing.
    """
    found = find_device()
    if found is None:
        raise TargetError(
            f"{title} needs an NVIDIA GPU with its driver, and none answers here.",
            cause="no GPU, no driver, or a container started without access to it",
            fix="run on the device, or use --target onnxruntime-cpu",
        )
    return found
