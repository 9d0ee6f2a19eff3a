"""`flextron-export build`."""

from __future__ import annotations

from pathlib import Path

import click

from ..targets import TARGETS
from .common import DIRECTORY, integers, json_option, megabytes, print_json, track


@click.command("build", short_help="Compile a bundle for a target.")
@click.argument("bundle", type=DIRECTORY)
@click.option("--target", required=True, help=f"{', '.join(TARGETS)}.")
@click.option("--layout", help="Graph layout; the target's own choice by default.")
@click.option("--dtype", help="Precision; the target's own choice by default.")
@click.option("--sm", callback=integers, help="Compute capabilities to compile for, such as 86,89 (tensorrt-rtx only).")
@click.option(
    "--capacity", callback=integers, help="Tokens a sequence may hold, such as 256,1024: an engine each (TensorRT)."
)
@click.option("--max-batch", type=click.IntRange(min=1), help="Most sequences of a batch (TensorRT).")
@click.option("--max-length", type=click.IntRange(min=1), help="Most tokens of a prefill call (TensorRT).")
@json_option
def build_command(
    bundle: Path,
    target: str,
    layout: str | None,
    dtype: str | None,
    sm: tuple[int, ...] | None,
    capacity: tuple[int, ...] | None,
    max_batch: int | None,
    max_length: int | None,
    as_json: bool,
) -> None:
    """Compile BUNDLE for a target; the result goes to BUNDLE/engines/TARGET.

    \b
    Example:
      flextron-export build bundle --target tensorrt-rtx --sm 86,89
    """
    from ..bundle.engines import engine_directory
    from ..targets.build import build

    limits = {"capacity": capacity, "max_batch": max_batch, "max_length": max_length}
    given = {name: value for name, value in limits.items() if value is not None}
    record = build(bundle, target, layout=layout, dtype=dtype, sm=sm or (), track=track, **given)
    if as_json:
        print_json(record)
        return
    where = engine_directory(bundle, target, record["layout"], record["dtype"])
    click.echo(f"{where}: {record['library']} {record['library_version']}")
    if devices := record.get("compute_capabilities"):
        click.echo(f"  for compute capabilities {', '.join(map(str, devices))}")
    for plan in record.get("plans", ()):
        size = f"up to {plan['capacity']} tokens, {megabytes(plan['bytes'])}"
        click.echo(f"  {plan['file']}: {size}, {plan['seconds']:.1f} s")
