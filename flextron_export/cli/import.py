"""`flextron-export import`."""

from __future__ import annotations

from pathlib import Path

import click

from .common import DIRECTORY, json_option, print_json, print_table, span


@click.command("import", short_help="Take over a nested model that somebody else made.")
@click.argument("model", type=DIRECTORY)
@click.option("--slices", type=DIRECTORY, required=True, help="Its slicing table: .csv as of Gemma 3n, or .json.")
@click.option("--slice", "names", multiple=True, help="A slice of the table to take; may repeat. All by default.")
@click.option("--out", type=DIRECTORY, required=True, help="The elastic checkpoint to create.")
@click.option("--overwrite", is_flag=True, help="Replace an existing checkpoint.")
@json_option
def import_command(
    model: Path, slices: Path, names: tuple[str, ...], out: Path, overwrite: bool, as_json: bool
) -> None:
    """Make an elastic checkpoint of MODEL, whose layers are nested already, with the slices of a table as budgets.

    Nothing is sorted or trained. Slices that leave out layers or channels are refused by name (docs/import.md).

    \b
    Example:
      flextron-export import matformer --slices slices.csv --out checkpoint
    """
    from ..importing import import_slices

    found = import_slices(model, slices, out, names=names, overwrite=overwrite)
    a = found.architecture
    if as_json:
        budgets = [{**b.to_json(), "parameters": b.parameters(a)} for b in found.budgets]
        print_json({"checkpoint": str(out), "candidates": found.candidates.to_json(), "budgets": budgets})
        return
    rows = [
        [b.name, f"{b.parameters(a):,}", span([w.groups for w in b.layers]), span([w.neurons for w in b.layers])]
        for b in found.budgets
    ]
    print_table(str(out), ["budget", "parameters", "groups", "neurons"], rows)
    click.echo(f"next: flextron-export evaluate {out} --text FILE, or export {out} --out BUNDLE")
