"""`flextron-export route`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import DIRECTORY, json_option, names, print_json, print_table, show_warnings, text_options, work_options
from .latency import check_latency_options, chosen_latency, latency_options

if TYPE_CHECKING:
    from ..elastic.router import RouterRecord


@click.command("route", short_help="Train a router, and budgets from it, for an elastic checkpoint.")
@click.argument("checkpoint", type=DIRECTORY)
@text_options
@click.option("--out", type=DIRECTORY, required=True, help="Checkpoint to create; CHECKPOINT itself with --overwrite.")
@latency_options
@click.option(
    "--kind",
    type=click.Choice(("static", "dynamic", "prompt")),
    default="static",
    show_default=True,
    help="Widths from the target alone, per token, or per prompt.",
)
@click.option(
    "--method",
    type=click.Choice(("gumbel", "surrogate")),
    default="gumbel",
    show_default=True,
    help="Train through the model, or on a surrogate of its loss.",
)
@click.option(
    "--targets",
    multiple=True,
    default=("1.0,0.75,0.5",),
    show_default=True,
    callback=names,
    help="Latencies to train for: shares of the full model's, or such as 12ms.",
)
@click.option(
    "--budget-targets",
    multiple=True,
    callback=names,
    help="Latencies for which a static router's widths become budgets; --targets by default.",
)
@click.option("--tokens", type=int, default=200_000, show_default=True, help="Tokens to train the router on.")
@click.option(
    "--joint-tokens", type=int, default=0, show_default=True, help="Then tokens to train model and router on."
)
@click.option("--batch", type=int, default=16, show_default=True, help="Sequences per step.")
@click.option("--length", type=int, default=128, show_default=True, help="Tokens per sequence.")
@click.option("--hidden-size", type=int, help="Units of a router; 128, or the model's hidden size if less, by default.")
@click.option("--learning-rate", type=float, default=1e-2, show_default=True, help="Of the router.")
@click.option("--joint-learning-rate", type=float, help="Of the model; a tenth of elastify's by default.")
@click.option(
    "--threshold",
    type=float,
    default=0.1,
    show_default=True,
    help="Error of the surrogate, in nats, below which the router steps.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option("--threads", type=int, help="CPU threads; fewer are faster while other programs compute.")
@click.option("--device", help="Torch device, such as cpu or cuda; a GPU by default if there is one.")
@click.option("--plot", type=DIRECTORY, help="Draw the widths of every target into this PNG.")
@click.option("--metrics", type=DIRECTORY, help="Directory for TensorBoard.")
@work_options
@click.option("--save-every", type=int, default=500, show_default=True, help="Steps between saved states; 0: none.")
@click.option("--overwrite", is_flag=True, help="Replace an elastic checkpoint at --out.")
@json_option
def route_command(
    checkpoint: Path,
    text: tuple[str, ...],
    out: Path,
    budget_targets: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Train a router for CHECKPOINT: it answers a latency target with widths.

    A static router's widths for every target become budgets such as t75. A dynamic router chooses for every token, a
    prompt router for every prompt. The model's weights stay as they are, unless --joint-tokens are given.

    \b
    Example:
      flextron-export latency analytic checkpoint --device jetson-agx-orin --out orin.json
      flextron-export route checkpoint --text prose.txt --latency-model orin.json --targets 1.0,0.75,0.5 --out routed
    """
    from ..elastic.checkpoint import ElasticCheckpoint
    from ..training.route import route

    latency_wanted = check_latency_options(options)
    show_warnings()
    routed = route(
        checkpoint,
        text,
        out,
        latency_model=chosen_latency(ElasticCheckpoint.open(checkpoint), **latency_wanted),
        budget_targets=budget_targets or None,
        progress=not as_json,
        **options,
    )
    router = routed.router()
    assert router is not None
    record = router.record
    if as_json:
        print_json(
            {"checkpoint": str(out), "router": record.to_json(), "budgets": [b.to_json() for b in routed.budgets]}
        )
        return
    show_router(record)
    click.echo(f"written to {out}")
    if record.kind == "static":
        click.echo(f"budgets: {', '.join(b.name for b in routed.budgets)}")


def show_router(record: RouterRecord) -> None:
    """Print what a router came to at every target."""
    rows = []
    for r in record.results:
        uniform = None if r["uniform_loss"] is None else f"{r['uniform_loss']:.3f}"
        widths = " ".join(f"{g:g}/{n:g}" for g, n in ((round(g, 1), round(n)) for g, n in r["widths"]))
        ms = f"{r['milliseconds']:.4g}"
        rows.append([f"{r['target']:g}", ms, f"{r['relative']:.3f}", f"{r['validation_loss']:.3f}", uniform, widths])
    mean = "" if record.kind == "static" else "mean "
    columns = ["target", f"{mean}ms", "of full", "nats per token", "best uniform", f"{mean}groups/neurons per layer"]
    print_table(f"{record.kind} router, by the latency model", columns, rows)
