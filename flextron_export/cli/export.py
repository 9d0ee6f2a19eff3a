"""`flextron-export export`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import DIRECTORY, json_option, megabytes, names, print_json, track


@click.command("export", short_help="Export an elastic checkpoint to a bundle of ONNX graphs.")
@click.argument("checkpoint", type=DIRECTORY)
@click.option("--out", type=DIRECTORY, required=True, help="The bundle to create; it appears whole or not at all.")
@click.option(
    "--layout",
    "layouts",
    multiple=True,
    callback=names,
    help="panels, shared, per-budget or routed; repeat for several. All by default; routed needs a dynamic router.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    callback=names,
    help="fp32, int8 or int4 for ONNX Runtime; fp16, bf16, int8-fp16, int4-fp16 or fp8-fp16 for TensorRT; may "
    "repeat. fp32 and fp16 by default.",
)
@click.option(
    "--group-size",
    type=int,
    help="Weights that share a scale in int8, int4 and int4-fp16; by default up to 128, and up to 32 in 4 bits, as the "
    "widths allow.",
)
@click.option(
    "--budgets", multiple=True, callback=names, help="Names of the budgets to export, with commas. All by default."
)
@click.option("--no-verify", is_flag=True, help="Do not compare the graphs with the torch model.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@json_option
def export_command(
    checkpoint: Path,
    out: Path,
    layouts: tuple[str, ...],
    dtypes: tuple[str, ...],
    group_size: int | None,
    budgets: tuple[str, ...],
    no_verify: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export an elastic CHECKPOINT to a bundle of ONNX graphs, and verify it.

    \b
    Example:
      flextron-export export checkpoint --out bundle --layout panels --layout shared --dtype fp32
    """
    from ..exporting import export

    bundle = export(
        checkpoint,
        out,
        layouts=layouts or None,
        dtypes=dtypes or None,
        budgets=budgets or None,
        group_size=group_size,
        verify=not no_verify,
        overwrite=overwrite,
        track=track,
    )
    size = sum(record.bytes for record in bundle.files.values())
    if as_json:
        layouts_json = {dtype: list(found) for dtype, found in bundle.layouts.items()}
        budgets_json = [b.name for b in bundle.budgets]
        print_json(
            {
                "bundle": str(out),
                "budgets": budgets_json,
                "layouts": layouts_json,
                "bytes": size,
                "verified": not no_verify,
            }
        )
        return
    click.echo(f"{out}: {len(bundle.budgets)} budgets ({', '.join(b.name for b in bundle.budgets)}), {megabytes(size)}")
    for dtype, found in bundle.layouts.items():
        click.echo(f"  {dtype}: {', '.join(found)}")
    click.echo(f"next: flextron-export run {out} --latency-target 20ms --prompt TEXT")
