"""`flextron-export build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..targets import TARGETS
from .common import (
    DIRECTORY,
    integers,
    json_option,
    megabytes,
    print_json,
    print_table,
    show_warnings,
    track,
)

if TYPE_CHECKING:
    from ..targets.device_plan import DevicePlan


@click.command("build", short_help="Compile a bundle for a target.")
@click.argument("bundle", type=DIRECTORY)
@click.option("--target", help=f"{', '.join(TARGETS)}.")
@click.option(
    "--target-device",
    help="A described device, such as jetson-orin-nano, or a .toml file: choose what is not given for it, and refuse "
    "what its memory cannot hold.",
)
@click.option("--dry-run", is_flag=True, help="With --target-device: print what would be built, and build nothing.")
@click.option(
    "--tensorrt", help="With --target-device: the release on it, such as 10.3; by default all that its JetPack had."
)
@click.option("--layout", help="Graph layout; the target's own choice by default.")
@click.option("--dtype", help="Precision; the target's own choice by default.")
@click.option("--sm", callback=integers, help="Compute capabilities to compile for, such as 86,89 (tensorrt-rtx only).")
@click.option(
    "--capacity", callback=integers, help="Tokens a sequence may hold, such as 256,1024: an engine each (TensorRT)."
)
@click.option("--max-batch", type=click.IntRange(min=1), help="Most sequences of a batch (TensorRT).")
@click.option("--max-length", type=click.IntRange(min=1), help="Most tokens of a prefill call (TensorRT).")
@click.option("--separate", is_flag=True, help="An engine for each budget: less memory to build (TensorRT, shared).")
@json_option
def build_command(
    bundle: Path,
    target: str | None,
    target_device: str | None,
    dry_run: bool,
    tensorrt: str | None,
    layout: str | None,
    dtype: str | None,
    sm: tuple[int, ...] | None,
    capacity: tuple[int, ...] | None,
    max_batch: int | None,
    max_length: int | None,
    separate: bool,
    as_json: bool,
) -> None:
    """Compile BUNDLE for a target; the result goes to BUNDLE/engines/TARGET.

    \b
    Example:
      flextron-export build bundle --target tensorrt-rtx --sm 86,89
      flextron-export build bundle --target-device jetson-orin-nano --dry-run
    """
    from ..bundle.engines import engine_directory
    from ..bundle.manifest import Bundle
    from ..targets.build import build
    from ..targets.device_planning import plan_device

    if target is None and target_device is None:
        raise click.UsageError("Pass --target or --target-device.")
    if target_device is None and (dry_run or tensorrt):
        raise click.UsageError("--dry-run and --tensorrt need --target-device.")
    if target_device is not None and (sm or separate):
        raise click.UsageError("--sm and --separate are chosen by --target-device.")
    show_warnings()
    limits = {"capacity": capacity, "max_batch": max_batch, "max_length": max_length, "tensorrt": tensorrt}
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    if dry_run and target_device is not None:
        opened = Bundle.open(bundle, hashes=False)
        plan = plan_device(opened, target_device, target=target, layout=layout, dtype=dtype, **given)
        if as_json:
            print_json(plan.to_json())
        else:
            _show(plan)
        plan.require()
        return
    if target_device is not None:
        given["target_device"] = target_device
    if separate:
        given["separate"] = True
    record = build(bundle, target, layout=layout, dtype=dtype, sm=sm or (), track=track, **given)
    if as_json:
        print_json(record)
        return
    where = engine_directory(bundle, record["target"], record["layout"], record["dtype"])
    click.echo(f"{where}: {record['library']} {record['library_version']}")
    if devices := record.get("compute_capabilities"):
        click.echo(f"  for compute capabilities {', '.join(map(str, devices))}")
    if workarounds := record.get("workarounds"):
        click.echo(f"  known faults worked around: {', '.join(workarounds)}")
    for plan_record in record.get("plans", ()):
        size = f"up to {plan_record['capacity']} tokens, {megabytes(plan_record['bytes'])}"
        click.echo(f"  {plan_record['file']}: {size}, {plan_record['seconds']:.1f} s")


def _show(plan: DevicePlan) -> None:
    device, where = plan.device, "on the device" if plan.on_device else "here, ahead of time"
    click.echo(f"{plan.bundle} for {device.name} (SM {device.sm}): target {plan.target}, built {where}")
    for release in plan.releases:
        jetpack = f" (JetPack {', '.join(release.jetpack)})" if release.jetpack else ""
        how = f"{release.lowering} lowering" if release.lowering else "cannot run this model"
        click.echo(f"  {plan.target} {release.version}{jetpack}: {how}")
    for choice in plan.refused:
        click.echo(f"not {choice.layout}, {choice.dtype}: {choice.against}")
    if plan.chosen is None or plan.chosen.estimate is None:
        return
    choice, limits, found = plan.chosen, plan.chosen.limits, plan.chosen.estimate
    engines = "an engine for each budget" if limits.separate or choice.layout == "per-budget" else "one engine"
    click.echo(
        f"layout {choice.layout}, {choice.dtype}; {engines} and capacity ({', '.join(map(str, limits.capacities))} "
        f"tokens); up to {limits.max_batch} sequences and {limits.max_length} tokens in a call; "
        f"engine files of {megabytes(found.engines)}"
    )
    caches = ", ".join(f"{tokens} tokens {megabytes(size)}" for tokens, size in found.caches.items())
    click.echo(f"KV caches of {limits.max_batch} sequences with the widest budget: {caches}")
    rows: list[list[Any]] = []
    for phase, memory in (("building", found.building), ("running", found.running)):
        rows += [[f"{phase}: {name}", f"{size / 1e6:,.0f}"] for name, size in memory.parts.items()]
        room = plan.usable_bytes if phase == "running" or plan.on_device else plan.host_bytes
        left = "" if room is None else f" of {room / 1e6:,.0f}"
        rows.append([f"{phase}, together", f"{memory.total / 1e6:,.0f}{left}"])
    print_table("memory, estimated", ["", "MB"], rows)
    click.echo(f"next: {plan.command}")
