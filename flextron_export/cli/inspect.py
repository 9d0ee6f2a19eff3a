"""`flextron-export inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import DIRECTORY, integers, json_option, megabytes, print_json, print_table, span
from .route import show_router

if TYPE_CHECKING:
    from ..bundle.manifest import Bundle
    from ..elastic.architecture import Architecture
    from ..elastic.widths import Budget


@click.command("inspect", short_help="Show what a checkpoint or a bundle holds.")
@click.argument("path", type=DIRECTORY, metavar="CKPT|BUNDLE")
@click.option("--plot", type=DIRECTORY, help="Draw the widths of every budget, layer by layer, to this .png or .svg.")
@click.option(
    "--contexts",
    callback=integers,
    default="256,1024,4096",
    show_default=True,
    help="Context lengths in tokens to show a bundle's memory for.",
)
@json_option
def inspect_command(path: Path, plot: Path | None, contexts: tuple[int, ...], as_json: bool) -> None:
    """Show what an elastic checkpoint or a bundle holds. Sizes of files are checked, hashes are not (`verify` does).

    \b
    Example:
      flextron-export inspect bundle --plot widths.png
    """
    from ..artefacts import open_artefact
    from ..bundle.manifest import Bundle

    if plot is not None:
        from ..plots import check_image

        check_image(plot)
    opened = open_artefact(path)
    if isinstance(opened, Bundle):
        kind, more = "bundle", _bundle(opened, contexts)
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
    if plot is not None:
        from ..plots import widths_of_budgets

        widths_of_budgets(opened.budgets, opened.architecture, opened.candidates, plot, path.resolve().name)


def _bundle(bundle: Bundle, contexts: tuple[int, ...]) -> dict[str, Any]:
    from ..bundle.engines import read_engines
    from ..runtime.table import all_tables

    tables = []
    for table in all_tables(bundle):
        about = {"device": table.device["id"], "target": table.target, "layout": table.layout, "dtype": table.dtype}
        tables.append(
            {**about, "date": table.conditions.get("date"), "fits": table.fits(bundle), "caution": table.caution}
        )
    return {
        "layouts": {dtype: list(names) for dtype, names in bundle.layouts.items()},
        "files": {name: record.bytes for name, record in sorted(bundle.files.items())},
        "engines": read_engines(bundle),
        "latency": tables,
        "memory": _memory(bundle, contexts),
        "graphs": _graphs(bundle),
        "source": bundle.source,
    }


def _memory(bundle: Bundle, contexts: tuple[int, ...]) -> dict[str, Any]:
    """dtype -> budget -> bytes of the weights it reads, and of its KV cache by context length."""
    from ..bundle.memory import cache_bytes, weight_bytes
    from ..errors import InputError
    from ..runtime.capacity import capacity_for

    if not contexts or min(contexts) < 1:
        raise InputError(f"Context lengths must be at least 1, got {', '.join(map(str, contexts))}.")
    most = bundle.architecture.max_positions
    lengths = sorted({min(context, most) for context in contexts})
    return {
        dtype: {
            budget.name: {
                "weight_bytes": weight_bytes(bundle, dtype, budget),
                "cache_bytes": {str(n): cache_bytes(bundle, dtype, budget, capacity_for(n, most)) for n in lengths},
            }
            for budget in bundle.budgets
        }
        for dtype in bundle.dtypes
    }


def _graphs(bundle: Bundle) -> dict[str, Any]:
    """File -> what the graph consists of; {} where onnx is not installed."""
    from dataclasses import asdict

    from ..errors import MissingDependencyError
    from ..graph.statistics import graph_statistics

    files = {
        path
        for dtype, layouts in bundle.layouts.items()
        for layout in layouts
        for path in bundle.graphs(layout, dtype).values()
    }
    try:
        return {path.name: asdict(graph_statistics(path)) for path in sorted(files)}
    except MissingDependencyError:
        return {}


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
        widths = span([w.groups for w in budget.layers]), span([w.neurons for w in budget.layers])
        rows.append([budget.name, f"{budget.parameters(a):,}", *widths, loss])
    print_table("", ["budget", "parameters", "groups", "neurons", "validation loss"], rows)
    if found["kind"] == "checkpoint":
        if "router" in found:
            show_router(RouterRecord.from_json(found["router"]))
        return
    for dtype, names in found["layouts"].items():
        click.echo(f"layouts in {dtype}: {', '.join(names)}")
    _show_memory(found["memory"])
    _show_graphs(found["graphs"])
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


def _show_memory(memory: dict[str, Any]) -> None:
    for dtype, budgets in memory.items():
        lengths = list(next(iter(budgets.values()))["cache_bytes"])
        rows = []
        for name, needed in budgets.items():
            weights = needed["weight_bytes"]
            whole = (f"{(weights + cache) / 1e6:,.1f}" for cache in needed["cache_bytes"].values())
            rows.append([name, f"{weights / 1e6:,.1f}", *whole])
        columns = ["budget", "weights", *(f"with KV cache for {n}" for n in lengths)]
        print_table(f"memory in MB, {dtype}, one sequence", columns, rows)


def _show_graphs(graphs: dict[str, Any]) -> None:
    if not graphs:
        click.echo("graphs: not counted, as onnx is not installed")
        return
    rows = []
    for name, found in graphs.items():
        frequent = ", ".join(f"{count} {operator}" for operator, count in list(found["operators"].items())[:3])
        weights = f"{found['weights']:,} ({megabytes(found['weight_bytes'])})" if found["weights"] else "inputs"
        rows.append([name, f"{found['nodes']:,}", found["operators"].get("If", 0), weights, frequent])
    print_table("", ["graph", "nodes", "conditionals", "weights", "most frequent"], rows)
