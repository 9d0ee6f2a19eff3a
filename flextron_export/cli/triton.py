"""`flextron-export triton`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
def triton_command(bundle: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Write BUNDLE as a model of Triton's Python backend: config.pbtxt, model.py and a copy of the bundle.

    \b
    Example:
      flextron-export triton bundle --out repository --latency-target 20ms
    """
    from ..triton.repository import triton

    written = triton(bundle, out, **options)
    if as_json:
        print_json({"model": str(written)})
    else:
        click.echo(f"{written}: next: tritonserver --model-repository {out}")
