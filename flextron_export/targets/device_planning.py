"""A build for a described device, planned before it starts: target, lowering, layout, precision, and whether it fits.

Numbers come from `_tensorrt.memory`; docs/jetson.md says which of them are measured and which assumed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..bundle.engines import build_command
from ..bundle.manifest import Bundle
from ..errors import FlextronError, InputError, TargetError
from ..graph.contract import BITS
from . import TARGETS, get_target
from ._tensorrt.memory import estimate
from ._tensorrt.profiles import Limits
from ._tensorrt.versions import FIRST, HEAD_SIZES, KNOWN_SM, NATIVE, PLUGIN, least_batch, lowering_of, version_numbers
from .device_description import DeviceDescription, device_description, device_ids
from .device_plan import Choice, DevicePlan, Release

PREFERRED_DTYPES = ("fp16", "int8-fp16", "fp8-fp16", "int4-fp16")
"""Precisions in the order in which they are tried, before any others: the first that fits is taken."""

PREFERRED_LAYOUTS = ("shared", "per-budget", "panels")
"""Layouts likewise: one copy of the weights for all budgets first, conditionals last."""

SMALLEST_CAPACITY = 64


def plan_device(
    bundle: Bundle,
    device: str | Path | DeviceDescription,
    *,
    target: str | None = None,
    layout: str | None = None,
    dtype: str | None = None,
    tensorrt: str | None = None,
    capacity: int | Sequence[int] | None = None,
    max_batch: int = 4,
    max_length: int = 256,
) -> DevicePlan:
    """Plan a build.

    Args:
        device: a described device, or the path of a `.toml` file.
        target: by default one that builds ahead of time, if the device has one.
        layout, dtype: by default the first that the bundle, target and device have and that fits.
        tensorrt: the release on the device; by default those that its JetPack releases bring.
        capacity, max_batch, max_length: as for `build`.

    Raises:
        InputError: there is no such device, or an argument makes no sense.
        TargetError: the device and the target have nothing to do with each other, or no release of TensorRT for the
            device takes the model.
    """
    found = device if isinstance(device, DeviceDescription) else device_description(device)
    chosen_target = _target(found, target)
    on_device = not get_target(chosen_target).AHEAD_OF_TIME
    releases = _releases(bundle, found, chosen_target, tensorrt)
    batch = max(max_batch, *(least_batch(chosen_target, r.version, found.sm) for r in releases))
    usable, host = found.usable_bytes, None if on_device else _available()

    tried, fitting = [], None
    for choice in _choices(
        bundle, found, chosen_target, releases, layout, dtype, capacity, batch, max_length, on_device
    ):
        problem = choice.against or _too_much(choice, usable, host, on_device)
        if not problem:
            fitting = choice
            break
        tried.append(replace(choice, against=problem))
    if fitting is None and not tried:
        there = "; ".join(f"{d}: {', '.join(names)}" for d, names in bundle.layouts.items())
        raise TargetError(
            f"{bundle.path} has no layout that is planned for a device.",
            cause=f"it holds {there}",
            fix=f"export again with --layout {PREFERRED_LAYOUTS[0]} --dtype fp16, or pass --layout and --dtype",
        )
    alternatives = () if fitting else tuple(_alternatives(bundle, tried, found, usable, host, on_device))
    command = _command(bundle.path, found, chosen_target, fitting)
    return DevicePlan(
        bundle.path,
        found,
        chosen_target,
        on_device,
        releases,
        usable,
        host,
        fitting,
        tuple(tried),
        alternatives,
        command,
    )


def _target(device: DeviceDescription, target: str | None) -> str:
    if device.sm not in KNOWN_SM:
        known = ", ".join(map(str, KNOWN_SM))
        raise TargetError(
            f"No target knows SM {device.sm}, which {device.name} has.",
            cause=f"TensorRT and TensorRT-RTX compile for SM {known}",
            fix="use --target onnxruntime-cpu on that device",
        )
    if target is None:
        return next((name for name in device.targets if get_target(name).AHEAD_OF_TIME), device.targets[0])
    if target not in TARGETS:
        raise InputError(f"There is no target {target!r}.", fix=f"use one of: {', '.join(TARGETS)}")
    if target not in device.targets:
        raise TargetError(
            f"Target {target} builds nothing for {device.name} (SM {device.sm}).",
            fix=f"use --target {' or '.join(device.targets)}",
        )
    return target


def _releases(bundle: Bundle, device: DeviceDescription, target: str, tensorrt: str | None) -> tuple[Release, ...]:
    """Releases that the device may have; TargetError if none of them takes the model."""
    jetpack: dict[str, list[str]] = {}
    if get_target(target).AHEAD_OF_TIME:
        versions = [".".join(map(str, first)) for first in FIRST[target].values()]
    elif tensorrt is not None:
        if not re.fullmatch(r"\d+(\.\d+)+", tensorrt):
            raise InputError(f"{tensorrt!r} is no release of TensorRT.", fix="pass one such as 10.3")
        versions = [tensorrt]
    elif device.jetpack:
        for name, version in device.jetpack.items():
            jetpack.setdefault(version, []).append(name)
        versions = list(jetpack)
    else:
        firsts = sorted({max(first, version_numbers(device.tensorrt_from)) for first in FIRST[target].values()})
        versions = [".".join(map(str, first)) for first in firsts]
    size, found = bundle.architecture.head_dim, []
    for version in versions:
        lowering = lowering_of(target, version)
        possible = None if lowering == PLUGIN and size not in HEAD_SIZES else lowering
        found.append(Release(version, tuple(jetpack.get(version, ())), possible))
    if all(release.lowering is None for release in found):
        sizes = ", ".join(map(str, HEAD_SIZES))
        raise TargetError(
            f"TensorRT {' and '.join(versions)} on {device.name} cannot run this model.",
            cause=f"before 10.15 attention is our plugin, which needs 10.3 and has kernels for heads of {sizes}; the "
            f"model has heads of {size}",
            fix="upgrade to TensorRT 10.15 or newer (JetPack 7.2), or use --target onnxruntime-cpu",
        )
    return tuple(found)


def _choices(
    bundle: Bundle,
    device: DeviceDescription,
    target: str,
    releases: Sequence[Release],
    layout: str | None,
    dtype: str | None,
    capacity: int | Sequence[int] | None,
    max_batch: int,
    max_length: int,
    on_device: bool,
) -> Iterator[Choice]:
    """What could be built, in order of preference; a choice that the target or the device refuses says so."""
    known = [d for d in dict.fromkeys((*PREFERRED_DTYPES, *bundle.dtypes)) if d in bundle.dtypes]
    native = any(release.lowering == NATIVE for release in releases)
    for precision in (dtype,) if dtype else known:
        for name in (layout,) if layout else [n for n in PREFERRED_LAYOUTS if n in bundle.layouts.get(precision, ())]:
            limits = Limits.choose(bundle, name, capacity, max_batch, max_length)
            try:
                get_target(target).check(bundle, name, precision)
                if precision.removesuffix("-fp16") not in device.precisions:
                    raise TargetError(f"{device.name} has no {precision}, only {', '.join(device.precisions)}.")
                if precision in BITS and not native:
                    raise TargetError(f"{precision} needs TensorRT 10.15 or newer.")
            except FlextronError as error:
                yield Choice(name, precision, limits, None, f"is refused: {error.what.rstrip('.')}")
                continue
            for separate in (False, True) if name == "shared" and len(bundle.budgets) > 1 else (False,):
                way = replace(limits, separate=separate)
                yield Choice(name, precision, way, estimate(bundle, name, precision, way, on_device=on_device))


def _too_much(choice: Choice, usable: int, host: int | None, on_device: bool) -> str:
    """In which way a choice does not fit; empty if it does."""
    assert choice.estimate is not None
    building, running = choice.estimate.building.total, choice.estimate.running.total
    found = [f"needs {running / 1e9:.2f} GB to run"] if running > usable else []
    room = usable if on_device else host
    if room is not None and building > room:
        where = "" if on_device else f", where {room / 1e9:.2f} GB are left here"
        found.append(f"needs {building / 1e9:.2f} GB to build{where}")
    way = " with an engine for each budget" if choice.limits.separate else ""
    return " and ".join(found) + way if found else ""


def _alternatives(
    bundle: Bundle, tried: Sequence[Choice], device: DeviceDescription, usable: int, host: int | None, on_device: bool
) -> Iterator[str]:
    """Changes after which something fits, each tried alone on the choice that needs least."""
    possible = [choice for choice in tried if choice.estimate is not None]
    if not possible:
        return
    least = min(possible, key=lambda c: c.estimate.running.total if c.estimate else 0)

    def fits(way: Choice, bundle: Bundle, limits: Limits) -> bool:
        found = estimate(bundle, way.layout, way.dtype, limits, on_device=on_device)
        return not _too_much(Choice(way.layout, way.dtype, limits, found), usable, host, on_device)

    limits = least.limits
    if limits.max_batch > 2 and fits(least, bundle, replace(limits, max_batch=2)):
        yield "--max-batch 2"
    capacity = limits.capacities[-1] // 2
    while capacity >= SMALLEST_CAPACITY:
        shorter = replace(limits, capacities=(capacity,), max_length=min(limits.max_length, capacity))
        if fits(least, bundle, shorter):
            yield f"--capacity {capacity}"
            break
        capacity //= 2
    # Layout `shared` keeps whole weights whatever the budgets; the others hold those of their budgets alone.
    if split := next((choice for choice in possible if choice.layout == "per-budget"), None):
        budgets = sorted(bundle.budgets, key=lambda b: -b.parameters(bundle.architecture))
        for start in range(1, len(budgets)):
            fewer = replace(bundle, budgets=tuple(budgets[start:]))
            if fits(split, fewer, split.limits):
                names = ",".join(b.name for b in fewer.budgets)
                yield f"export with --budgets {names} and use --layout per-budget"
                break
    smallest = least.estimate.running.total if least.estimate else 0
    larger = [d for d in map(device_description, device_ids()) if d.usable_bytes >= smallest and d.kind == device.kind]
    if larger:
        yield f"--target-device {min(larger, key=lambda d: d.usable_bytes).id}, which has the memory"


def _available() -> int | None:
    """Memory that a new process may have here; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _command(bundle: Path, device: DeviceDescription, target: str, choice: Choice | None) -> str:
    if choice is None:
        return ""
    limits = choice.limits
    words = ["--layout", choice.layout, "--dtype", choice.dtype]
    words += ["--capacity", ",".join(map(str, limits.capacities))]
    words += ["--max-batch", str(limits.max_batch), "--max-length", str(limits.max_length)]
    words += ["--separate"] * limits.separate
    words += ["--sm", str(device.sm)] if get_target(target).AHEAD_OF_TIME else []
    return build_command(bundle, target, *words)
