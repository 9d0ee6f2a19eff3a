"""`flextron-export report`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import DIRECTORY, json_option, names, print_json, show_warnings, track


@click.command("report", short_help="Write an HTML page about a bundle.")
@click.argument("bundle", type=DIRECTORY)
@click.option("--out", type=DIRECTORY, help="The page; BUNDLE.html beside the bundle by default.")
@click.option(
    "--device", "devices", multiple=True, callback=names, help="Predict for this device too, see `plan`; may repeat."
)
@click.option("--verify", is_flag=True, help="Run `verify` first, and say what it found on this machine.")
@json_option
def report_command(bundle: Path, out: Path | None, devices: tuple[str, ...], verify: bool, as_json: bool) -> None:
    """Write one page about BUNDLE that needs no network: quality against latency and memory of every budget, widths of
    every layer, times by length on every device that measured it, and what was verified on which hardware.

    \b
    Example:
      flextron-export report bundle --device jetson-orin-nano --out bundle.html
    """
    from ..reporting.report import report

    show_warnings()
    whole = bundle.resolve()
    written = report(bundle, out or whole.with_name(f"{whole.name}.html"), devices=devices, verify=verify, track=track)
    if as_json:
        print_json({"page": str(written)})
    else:
        click.echo(f"{written}: open it in a browser")
