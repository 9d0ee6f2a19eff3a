"""Targets: where a bundle runs. Each is a module with the same verbs; nothing outside this package knows their names.

`check(bundle, layout, dtype)` raises TargetError for a refused combination, `build(bundle, ...)` writes
`engines/<target>/`, `open_session(bundle, ...)` returns a `Session` that runs the graph contract.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ..errors import InputError

TARGETS = {
    "onnxruntime-cpu": "onnxruntime_cpu",
    "tensorrt-rtx": "tensorrt_rtx",
    "tensorrt": "tensorrt",
}
"""target name -> module in this package; imported only when used."""


def get_target(name: str) -> ModuleType:
    """The module of a target; InputError names the targets there are."""
    if name not in TARGETS:
        raise InputError(f"There is no target {name!r}.", fix=f"use one of: {', '.join(TARGETS)}")
    return import_module(f".{TARGETS[name]}", __name__)
