"""The operators of domain `flextron` as custom ops of ONNX Runtime: finds the library and registers it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from .libraries import OPERATORS, build_command, cannot_load, find

LIBRARY = "libflextron_onnxruntime_ops.so"


def register_onnxruntime(
    options: Any, providers: Iterable[str] = ("CPUExecutionProvider",), path: str | Path | None = None
) -> Path:
    """Make the operators known to the sessions that are created with these options.

    Nodes of domain `flextron` then run with the library's kernels, also where the model brings function bodies.

    Args:
        options: `onnxruntime.SessionOptions`.
        providers: execution providers that must have kernels: "CPUExecutionProvider", "CUDAExecutionProvider".
        path: the library; None looks for it.

    Returns:
        The path of the library. MissingDependencyError says what was tried, or which provider has no kernels.
    """
    library = Path(path) if path is not None else find(LIBRARY)
    try:
        loaded = ctypes.CDLL(str(library))
        loaded.flextron_onnxruntime_providers.restype = ctypes.c_char_p
        known = loaded.flextron_onnxruntime_providers().decode().split(",")
    except (OSError, AttributeError) as error:
        raise cannot_load(library, error) from error
    for provider in providers:
        if provider not in known:
            raise MissingDependencyError(
                f"{library} has no kernels of {', '.join(OPERATORS)} for {provider}.",
                cause=f"it has those for {', '.join(known)}; those for CUDA are built where nvcc is",
                fix=build_command(LIBRARY),
            )
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # ONNX Runtime's own exception types differ between releases
        raise cannot_load(library, error) from error
    return library
