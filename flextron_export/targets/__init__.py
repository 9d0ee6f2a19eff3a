"""Targets: where a bundle runs. `target.Target` is what each of them offers."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..bundle.manifest import Bundle
    from .target import Target

DEFAULT_TARGET = "onnxruntime-cpu"
TARGETS = {
    DEFAULT_TARGET: "onnxruntime_cpu:",
    "onnxruntime-cuda": "_onnxruntime.target:ONNXRUNTIME_CUDA",
    "onnxruntime-tensorrt": "_onnxruntime.target:ONNXRUNTIME_TENSORRT",
    "onnxruntime-tensorrt-rtx": "_onnxruntime.target:ONNXRUNTIME_TENSORRT_RTX",
    "tensorrt-rtx": "_tensorrt.target:TENSORRT_RTX",
    "tensorrt": "_tensorrt.target:TENSORRT",
}
"""target name -> a module in this package, or an object in one; imported only when used."""


def get_target(name: str) -> Target:
    """The target of that name; InputError names the targets there are."""
    if name not in TARGETS:
        raise InputError(f"There is no target {name!r}.", fix=f"use one of: {', '.join(TARGETS)}")
    found: Target = resolve_name(f"{__name__}.{TARGETS[name]}")
    return found


def settle(target: str, bundle: Bundle, layout: str | None = None, dtype: str | None = None) -> tuple[str, str]:
    """Layout and precision to run or compile: those given, else the target's own, else what was exported.

    Raises:
        InputError: there is no such target.
        BundleError: the bundle does not hold what was asked for.
        TargetError: the target refuses the combination.
    """
    found = get_target(target)
    dtype = dtype or (found.DEFAULT_DTYPE if found.DEFAULT_DTYPE in bundle.dtypes else bundle.dtypes[0])
    exported = bundle.layouts.get(dtype, ())
    layout = layout or (found.DEFAULT_LAYOUT if found.DEFAULT_LAYOUT in exported or not exported else exported[0])
    found.check(bundle, layout, dtype)
    return layout, dtype
