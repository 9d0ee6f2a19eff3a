"""The TensorRT library of `plugins/`: found when an engine is built, kept beside it, loaded from there to run it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ...bundle.manifest import FileRecord
from ...errors import TargetError
from ...plugins.libraries import KERNELS, build_command, find

LIBRARY = "libflextron_tensorrt_plugins.so"
"""The adapters for TensorRT; the kernels must lie in the same directory."""
PLUGINS = ("HeadSubsetAttention",)
"""Plugins that lowered graphs use."""


def find_plugins() -> Path:
    """The directory that holds both libraries; MissingDependencyError names where they were looked for."""
    return find(LIBRARY, KERNELS).parent


def copy_plugins(source: Path, directory: Path) -> dict[str, FileRecord]:
    """Copy both libraries beside the engines; return their sizes and hashes by name."""
    for name in (LIBRARY, KERNELS):
        shutil.copyfile(source / name, directory / name)
    return {name: FileRecord.of(directory / name) for name in (LIBRARY, KERNELS)}


def load_plugins(library: Any, directory: Path) -> None:
    """Register the plugins with TensorRT, unless they are registered in this process already.

    Raises:
        TargetError: TensorRT cannot load the library, or the library lacks one of the plugins.
    """
    registry = library.get_plugin_registry()
    path = directory / LIBRARY

    def missing() -> list[str]:
        known = {creator.name for creator in registry.all_creators}  # asking for one that is absent logs an error
        return [name for name in PLUGINS if name not in known]

    if missing():
        try:
            loaded = registry.load_library(str(path.resolve()))
        except Exception as error:  # the binding raises what it likes
            raise _unusable(path, str(error)) from error
        if loaded is None:
            raise _unusable(path, "TensorRT refused it")
    if absent := missing():
        raise _unusable(path, f"it has no {', '.join(absent)}")


def _unusable(path: Path, reason: str) -> TargetError:
    return TargetError(
        f"The plugin library {path} cannot be used: {reason}.",
        cause="it was built for another processor, CUDA or TensorRT",
        fix=f"on this device: {build_command(LIBRARY)}; then build the engine again",
    )
