"""The kernel library, loaded through its C ABI. Addresses go in: of NumPy arrays or of GPU tensors.

Needs neither TensorRT nor ONNX; a GPU only for the library that nvcc built.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import ClassVar

from ..errors import InputError
from .libraries import KERNELS, cannot_load, find

DATA_TYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
OPERATIONS = {"outputs": 0, "inputs": 1, "feed_forward": 2}
WEIGHT_TYPES = {0: 0, 8: 1, 4: 2}
"""Bits of integer weights, 0 for those of the data type -> FlextronWeightType."""
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}


class Parameters(ctypes.Structure):
    """The parameter struct of an operator; `NAME` is that of its C functions."""

    NAME: ClassVar[str]

    def __init__(self, **fields: int | float | None) -> None:
        super().__init__(size=ctypes.sizeof(type(self)), **fields)


class HeadSubsetAttention(Parameters):
    """`struct FlextronHeadSubsetAttention`; the header explains the fields."""

    NAME = "head_subset_attention"
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


class ElasticLinear(Parameters):
    """`struct FlextronElasticLinear`; the header explains the fields."""

    NAME = "elastic_linear"
    _fields_ = (
        ("size", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in ("operation", "data_type", "weight_type", "group_size", "batch")),
        *((name, ctypes.c_int32) for name in ("length", "hidden", "rows", "activation", "multiprocessors")),
        *((name, ctypes.c_int32) for name in ("active_rows_batch_stride", "active_rows_token_stride")),
        ("addend_token_stride", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("active_rows", "input", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("gate_scales", "up_scales", "down_scales", "gate_bias", "up_bias")),
        *((name, ctypes.c_void_p) for name in ("addend", "output")),
    )


class Plugins:
    """A loaded kernel library.

    Args:
        path: the library; None looks for it.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path is not None else find(KERNELS)
        reason = ctypes.POINTER(ctypes.c_char_p)
        self._workspace, self._run = {}, {}
        try:
            library = ctypes.CDLL(str(self.path))
            for operator in (HeadSubsetAttention, ElasticLinear):
                struct = ctypes.POINTER(operator)
                workspace = getattr(library, f"flextron_{operator.NAME}_workspace")
                workspace.argtypes = [struct, ctypes.POINTER(ctypes.c_size_t), reason]
                run = getattr(library, f"flextron_{operator.NAME}_run")
                run.argtypes = [struct, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, reason]
                self._workspace[operator.NAME], self._run[operator.NAME] = workspace, run
        except (OSError, AttributeError) as error:
            raise cannot_load(self.path, error) from error

    def workspace(self, parameters: Parameters) -> int:
        """Bytes of workspace for these sizes; InputError names what is wrong with them."""
        size, reason = ctypes.c_size_t(), ctypes.c_char_p()
        call = self._workspace[parameters.NAME]
        _check(call(ctypes.byref(parameters), ctypes.byref(size), ctypes.byref(reason)), reason)
        return size.value

    def run(self, parameters: Parameters, workspace: int = 0, workspace_bytes: int = 0, stream: int = 0) -> None:
        """Enqueue the operator on a CUDA stream; InputError names what is wrong with the arguments."""
        reason = ctypes.c_char_p()
        call = self._run[parameters.NAME]
        _check(call(ctypes.byref(parameters), workspace, workspace_bytes, stream, ctypes.byref(reason)), reason)


def _check(status: int, reason: ctypes.c_char_p) -> None:
    if status:
        text = reason.value.decode() if reason.value else "unknown reason"
        raise InputError(f"The kernel library refused the call (status {status}): {text}.")
