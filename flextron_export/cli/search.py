"""`flextron-export search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import DIRECTORY, json_option, names, print_json, print_table, show_warnings, text_options, work_options
from .latency import check_latency_options, chosen_latency, latency_options


@click.command("search", short_help="Find budgets for latency targets, without a router.")
@click.argument("checkpoint", type=DIRECTORY)
@text_options
@latency_options
@click.option(
    "--targets",
    multiple=True,
    callback=names,
    required=True,
    help="Parts of the full model's latency, or times, with commas: 0.75,0.5,12ms.",
)
@click.option("--out", type=DIRECTORY, required=True, help="Checkpoint directory to create.")
@click.option("--sequences", type=int, default=32, show_default=True, help="Sequences that an evaluation reads.")
@click.option("--length", type=int, default=128, show_default=True, help="Tokens per sequence.")
@click.option("--max-evaluations", type=int, default=1000, show_default=True, help="Most losses to compute.")
@click.option("--seed", type=int, help="Seed of the split of the text; elastify's by default.")
@click.option("--threads", type=int, help="CPU threads; fewer are faster while other programs compute.")
@click.option("--device", help="Torch device, such as cpu or cuda; a GPU by default if there is one.")
@work_options
@click.option("--overwrite", is_flag=True, help="Replace an elastic checkpoint at --out, which may be CHECKPOINT.")
@json_option
def search_command(
    checkpoint: Path,
    text: tuple[str, ...],
    targets: tuple[str, ...],
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Search the widths of every layer of CHECKPOINT for latency targets, and write them as named budgets.

    From the full model, the step with the least validation loss per millisecond saved is taken until a target is met;
    then layers swap widths as long as the loss falls. A target of 0.75 becomes the budget t75. The checkpoint at --out
    has the old budgets, too.

    \b
    Example:
      flextron-export search checkpoint --text prose.txt --latency-model here.json --targets 0.75,0.5 --out routed
    """
    from ..elastic.checkpoint import ElasticCheckpoint
    from ..training.search_checkpoint import search_checkpoint

    latency_wanted = check_latency_options(options)
    show_warnings()
    opened = ElasticCheckpoint.open(checkpoint)
    layers = opened.architecture.num_layers
    latency = chosen_latency(opened, **latency_wanted)

    def report(evaluations: int, loss: float) -> None:
        if evaluations % 50 == 0:
            click.echo(f"searching: {evaluations} evaluations, latest loss {loss:.3f}", err=True)

    written, found = search_checkpoint(
        opened, text, latency, targets, out, report=None if as_json else report, **options
    )
    if as_json:
        results = [
            {
                **f.budget.to_json(),
                "asked_ms": f.target,
                "predicted_ms": f.milliseconds,
                "uniform": None if f.uniform is None else f.uniform.to_json(),
            }
            for f in found
        ]
        print_json({"checkpoint": str(out), "found": results})
        return
    rows = [
        [
            f.budget.name,
            f"{f.target:.3f}",
            f"{f.milliseconds:.3f}",
            f"{f.budget.parameters(written.architecture):,}",
            f"{f.budget.validation_loss:.3f}",
            None if f.uniform is None else f"{f.uniform.validation_loss:.3f}",
            " ".join(f"{w.groups}/{w.neurons}" for w in f.budget.layers[:8]) + (" ..." if layers > 8 else ""),
        ]
        for f in found
    ]
    columns = ["budget", "ms asked", "ms predicted", "parameters", "nats per token", "best uniform", "groups/neurons"]
    print_table(f"{out}: found budgets; loss on text held out, beside the best uniform widths", columns, rows)
