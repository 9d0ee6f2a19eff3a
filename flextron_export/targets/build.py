"""The verb `build`: compile a bundle for a target."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ..bundle.manifest import Bundle
from ..errors import InputError, TargetError
from ..progress import Track, silent
from . import get_target, settle
from ._tensorrt.device import find_device
from .device_plan import DevicePlan
from .device_planning import plan_device

LIMITS = ("capacity", "max_batch", "max_length", "separate")


def build(
    bundle: str | Path,
    target: str | None = None,
    *,
    target_device: str | Path | None = None,
    layout: str | None = None,
    dtype: str | None = None,
    sm: tuple[int, ...] = (),
    track: Track = silent,
    **limits: Any,
) -> dict[str, Any]:
    """Compile a bundle for a target; the result goes to `engines/<target>/`.

    Args:
        bundle: a bundle directory; its files are verified first.
        target: one of `TARGETS`; may be left out if `target_device` is given.
        target_device: a described device, or a `.toml` file: target, layout, precision and limits that were not given
            are chosen for it, and nothing is begun that does not fit its memory (`plan_device`).
        layout, dtype: if None, the target's own or else what was exported.
        sm: compute capabilities such as 86 or 120; only TensorRT-RTX builds for devices that are not there.
        limits: what the target allows further, of `LIMITS`.

    Returns:
        The record that was written as `engine.json`.

    Raises:
        InputError: the target takes no such limit, or no compute capabilities.
        TargetError: the target refuses the combination or the compilation failed.
        MissingDependencyError: the target's library is not installed.
    """
    opened = Bundle.open(bundle)
    if target_device is not None:
        plan = plan_device(opened, target_device, target=target, layout=layout, dtype=dtype, **limits)
        target, layout, dtype, sm, limits = _as_planned(plan)
    if target is None:
        raise InputError("There is neither a target nor a device to build for.", fix="pass --target or --target-device")
    found = get_target(target)
    if sm and not found.AHEAD_OF_TIME:
        raise InputError(
            f"Target {target} takes no compute capabilities.",
            cause="it compiles for the device it runs on",
            fix="leave out --sm",
        )
    taken = inspect.signature(found.build).parameters
    if unknown := [name for name in limits if name not in taken]:
        known = ", ".join(name for name in LIMITS if name in taken)
        raise InputError(
            f"Target {target} takes no {', '.join(unknown)}.",
            cause=f"of such limits it takes {known}" if known else "its graphs run at any size",
            fix=f"leave out {', '.join(unknown)}",
        )
    layout, dtype = settle(target, opened, layout, dtype)
    return found.build(opened, layout=layout, dtype=dtype, track=track, **({"sm": sm} if sm else {}), **limits)


def _as_planned(plan: DevicePlan) -> tuple[str, str, str, tuple[int, ...], dict[str, Any]]:
    """Target, layout, precision, compute capabilities and limits of a plan that fits and can be built here."""
    choice = plan.require()
    here = find_device() if plan.on_device else None
    if plan.on_device and (here is None or here.compute_capability != plan.device.sm):
        raise TargetError(
            f"Target {plan.target} compiles on the device it is for, and this is not {plan.device.name}.",
            cause="there is no NVIDIA GPU here"
            if here is None
            else f"{here.name} has SM {here.compute_capability}, not {plan.device.sm}",
            fix=f"copy {plan.bundle} there, and run there: {plan.command}",
        )
    limits = choice.limits
    given = {"capacity": limits.capacities, "max_batch": limits.max_batch, "max_length": limits.max_length}
    sm = () if plan.on_device else (plan.device.sm,)
    return plan.target, choice.layout, choice.dtype, sm, {**given, "separate": limits.separate}
