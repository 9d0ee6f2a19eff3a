"""`flextron-export inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import DIRECTORY, json_option, megabytes, print_json, print_table
from .route import show_router

if TYPE_CHECKING:
    from ..bundle.manifest import Bundle
    from ..elastic.architecture import Architecture
    from ..elastic.widths import Budget


@click.command("inspect", short_help="Show what a checkpoint or a bundle holds.")
@click.argument("path", type=DIRECTORY, metavar="CKPT|BUNDLE")
@json_option
def inspect_command(path: Path, as_json: bool) -> None:
    """Show what an elastic checkpoint or a bundle holds. Sizes of files are checked, hashes are not (`verify` does).

    \b
    Example:
      flextron-export inspect bundle
    """
    from ..artefacts import open_artefact
    from ..bundle.manifest import Bundle

    opened = open_artefact(path)
    if isinstance(opened, Bundle):
        kind, more = "bundle", _bundle(opened)
    else:
        kind = "checkpoint"
        more = {"parent": opened.parent, "sorting": opened.sorting, "training": opened.training}
        if (router := opened.router()) is not None:
            more["router"] = router.record.to_json()
    found: dict[str, Any] = {
        "kind": kind,
        "path": str(path),
        "architecture": opened.architecture.to_json(),
        "candidates": opened.candidates.to_json(),
        "budgets": [{**b.to_json(), "parameters": b.parameters(opened.architecture)} for b in opened.budgets],
        **more,
    }
    if as_json:
        print_json(found)
    else:
        _show(found, opened.architecture, opened.budgets)


def _bundle(bundle: Bundle) -> dict[str, Any]:
    from ..bundle.engines import read_engines
    from ..errors import FlextronError
    from ..runtime.table import all_tables, content_hash

    tables = []
    for table in all_tables(bundle):
        try:
            fits = table.bundle == content_hash(bundle, table.target, table.layout, table.dtype)
        except FlextronError:  # a layout that this bundle no longer has
            fits = False
        about = {"device": table.device["id"], "target": table.target, "layout": table.layout, "dtype": table.dtype}
        tables.append({**about, "date": table.conditions.get("date"), "fits": fits, "caution": table.caution})
    return {
        "layouts": {dtype: list(names) for dtype, names in bundle.layouts.items()},
        "files": {name: record.bytes for name, record in sorted(bundle.files.items())},
        "engines": read_engines(bundle),
        "latency": tables,
        "source": bundle.source,
    }


def _show(found: dict[str, Any], a: Architecture, budgets: tuple[Budget, ...]) -> None:
    from ..elastic.router import RouterRecord

    click.echo(f"{found['kind']} {found['path']}")
    click.echo(
        f"{a.family}: {a.num_layers} layers, hidden {a.hidden_size}, {a.num_heads} query heads "
        f"in {a.num_kv_heads} groups, {a.intermediate_size} neurons, vocabulary {a.vocab_size}, "
        f"{a.max_positions} positions"
    )
    rows = []
    for budget in budgets:
        loss = None if budget.validation_loss is None else f"{budget.validation_loss:.4f}"
        widths = _span([w.groups for w in budget.layers]), _span([w.neurons for w in budget.layers])
        rows.append([budget.name, f"{budget.parameters(a):,}", *widths, loss])
    print_table("", ["budget", "parameters", "groups", "neurons", "validation loss"], rows)
    if found["kind"] == "checkpoint":
        if "router" in found:
            show_router(RouterRecord.from_json(found["router"]))
        return
    for dtype, names in found["layouts"].items():
        click.echo(f"layouts in {dtype}: {', '.join(names)}")
    size = sum(found["files"].values())
    click.echo(f"files: {len(found['files'])}, {megabytes(size)}")
    for target, record in found["engines"].items():
        about = f"{record.get('library', 'damaged record')} {record.get('library_version', '')}"
        if devices := record.get("compute_capabilities"):
            about += f", for SM {', '.join(map(str, devices))}"
        if plans := record.get("plans"):
            about += f", {len(plans)} engines, {megabytes(sum(plan['bytes'] for plan in plans))}"
        click.echo(f"engine {target}: {about}")
    for table in found["latency"]:
        note = "" if table["fits"] else "  (of another content: it is not used)"
        about = f"{table['target']}, {table['layout']}, {table['dtype']}, {table['date']}"
        click.echo(f"latency table {table['device']}: {about}{note}")
        if table["fits"] and table["caution"]:
            click.echo(f"  {table['caution']}")


def _span(widths: list[int]) -> str:
    """Widths of all layers in short: one number if they are the same."""
    low, high = min(widths), max(widths)
    return str(low) if low == high else f"{low}–{high}, mean {sum(widths) / len(widths):.1f}"
