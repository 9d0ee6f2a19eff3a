"""The kernel libraries of `plugins/`, loaded through their C ABI. Addresses go in: of NumPy arrays or of GPU tensors.

Needs neither TensorRT nor ONNX; a GPU only for the library that nvcc built.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from .errors import InputError, MissingDependencyError

LIBRARY = "libflextron_plugins.so"
VARIABLE = "FLEXTRON_PLUGINS"
"""Environment variable with the path of the library, for a build outside the usual places."""

DATA_TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}


class HeadSubsetAttention(ctypes.Structure):
    """`struct FlextronHeadSubsetAttention`; the header explains the fields."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in ("data_type", "batch", "length", "groups", "heads_per_group")),
        *((name, ctypes.c_int32) for name in ("head_dim", "capacity", "window")),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("multiprocessors", "active_groups_batch_stride")),
        ("active_groups_token_stride", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("active_groups", "positions", "write")),
        *((name, ctypes.c_void_p) for name in ("query", "key", "value", "cosine", "sine")),
        *((name, ctypes.c_void_p) for name in ("key_cache", "value_cache", "output")),
    )

    def __init__(self, **fields: int | float | None) -> None:
        super().__init__(size=ctypes.sizeof(HeadSubsetAttention), **fields)


class Plugins:
    """A loaded kernel library.

    Args:
        path: the library; None looks at $FLEXTRON_PLUGINS, then in `build/plugins` of a source checkout.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else _find()
        try:
            self._library = ctypes.CDLL(str(self.path))
            self._workspace = self._library.flextron_head_subset_attention_workspace
            self._run = self._library.flextron_head_subset_attention_run
        except (OSError, AttributeError) as error:
            raise MissingDependencyError(
                f"{self.path} cannot be loaded as the kernel library.", cause=str(error), fix=_BUILD
            ) from error
        reason = ctypes.POINTER(ctypes.c_char_p)
        self._workspace.argtypes = [ctypes.POINTER(HeadSubsetAttention), ctypes.POINTER(ctypes.c_size_t), reason]
        self._run.argtypes = [
            ctypes.POINTER(HeadSubsetAttention), ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, reason,
        ]  # fmt: skip

    def head_subset_attention_workspace(self, parameters: HeadSubsetAttention) -> int:
        """Bytes of workspace for these sizes; InputError names what is wrong with them."""
        size, reason = ctypes.c_size_t(), ctypes.c_char_p()
        status = self._workspace(ctypes.byref(parameters), ctypes.byref(size), ctypes.byref(reason))
        _check(status, reason)
        return size.value

    def head_subset_attention(
        self, parameters: HeadSubsetAttention, workspace: int = 0, workspace_bytes: int = 0, stream: int = 0
    ) -> None:
        """Enqueue the operator on a CUDA stream; InputError names what is wrong with the arguments."""
        reason = ctypes.c_char_p()
        status = self._run(ctypes.byref(parameters), workspace, workspace_bytes, stream, ctypes.byref(reason))
        _check(status, reason)


_BUILD = "cmake -S . -B build -G Ninja && cmake --build build, or set FLEXTRON_PLUGINS to the library's path"


def _find() -> Path:
    if named := os.environ.get(VARIABLE):
        return Path(named)
    built = Path(__file__).resolve().parents[1] / "build" / "plugins" / LIBRARY
    if built.is_file():
        return built
    raise MissingDependencyError(f"The kernel library {LIBRARY} was not found; tried {built}.", fix=_BUILD)


def _check(status: int, reason: ctypes.c_char_p) -> None:
    if status:
        text = reason.value.decode() if reason.value else "unknown reason"
        raise InputError(f"The kernel library refused the call (status {status}): {text}.")
