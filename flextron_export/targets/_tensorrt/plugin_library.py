"""The TensorRT library of `plugins/`: found when an engine is built, kept beside it, loaded from there to run it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ...bundle.manifest import FileRecord
from ...errors import MissingDependencyError, TargetError

LIBRARY = "libflextron_tensorrt_plugins.so"
KERNELS = "libflextron_plugins.so"
"""The adapters for TensorRT, and the kernels that they find in the same directory."""

VARIABLE = "FLEXTRON_TENSORRT_PLUGINS"
"""Environment variable with the directory of both, for a build outside the usual place."""

PLUGINS = ("HeadSubsetAttention",)
"""Plugins that lowered graphs use."""

_BUILD = (
    "cmake -S . -B build -G Ninja && cmake --build build --target flextron_tensorrt_plugins, "
    f"or set {VARIABLE} to the directory of {LIBRARY}"
)


def find_plugins() -> Path:
    """The directory that holds both libraries.

    Raises:
        MissingDependencyError: they are in none of the usual places, which are named.
    """
    named = os.environ.get(VARIABLE)
    directory = Path(named) if named else Path(__file__).resolve().parents[3] / "build" / "plugins"
    missing = [name for name in (LIBRARY, KERNELS) if not (directory / name).is_file()]
    if missing:
        raise MissingDependencyError(
            f"This release of TensorRT needs our plugins, and {' and '.join(missing)} cannot be found in {directory}.",
            cause="TensorRT before 10.15 has no attention over a KV cache of its own",
            fix=_BUILD,
        )
    return directory


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
        fix=f"on this device: {_BUILD}; then build the engine again",
    )
