"""`flextron-export triton`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import DIRECTORY, json_option, print_json, target_options


@click.command("triton", short_help="Write a model repository for NVIDIA Triton.")
@click.argument("bundle", type=DIRECTORY)
@click.option("--out", type=DIRECTORY, required=True, help="The model repository; other models in it are left alone.")
@click.option("--name", help="Name of the model; the bundle's directory by default.")
@click.option("--latency-target", help="Of requests that set none, such as 20ms; else the widest budget answers.")
@click.option("--budget", help="Budget of requests that set nothing.")
@click.option("--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Generations at once.")
@click.option("--overwrite", is_flag=True, help="Replace a model that this command wrote.")
@target_options
@json_option
def triton_command(
    bundle: Path,
    out: Path,
    name: str | None,
    latency_target: str | None,
    budget: str | None,
    parallel: int,
    overwrite: bool,
    target: str,
    layout: str | None,
    dtype: str | None,
    threads: int | None,
    low_memory: bool,
    as_json: bool,
) -> None:
    """Write BUNDLE as a model of Triton's Python backend: config.pbtxt, model.py and a copy of the bundle.

    \b
    Example:
      flextron-export triton bundle --out repository --latency-target 20ms
    """
    from ..triton.repository import triton

    written = triton(
        bundle,
        out,
        name=name,
        target=target,
        layout=layout,
        dtype=dtype,
        threads=threads,
        low_memory=low_memory,
        latency_target=latency_target,
        budget=budget,
        parallel=parallel,
        overwrite=overwrite,
    )
    if as_json:
        print_json({"model": str(written)})
    else:
        click.echo(f"{written}: next: tritonserver --model-repository {out}")
