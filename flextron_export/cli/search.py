"""`flextron-export search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import DIRECTORY, json_option, names, print_json, print_table, show_warnings
from .latency import analytic_model


@click.command("search", short_help="Find budgets for latency targets, without a router.")
@click.argument("checkpoint", type=DIRECTORY)
@click.option("--text", type=DIRECTORY, multiple=True, required=True, help="Text: .txt, .txt.xz, .txt.gz; may repeat.")
@click.option("--latency-model", type=DIRECTORY, help="File of `latency fit` or `latency analytic`.")
@click.option("--device", help="Instead: a described device, such as jetson-agx-orin, or a .toml file.")
@click.option("--shape", help="With --device: stand for a model of this shape: 1b, 7b or 8b.")
@click.option("--phase", type=click.Choice(("decode", "prefill")), default="decode", help="With --device.")
@click.option("--tokens", type=int, default=1024, show_default=True, help="With --device: context or prompt length.")
@click.option("--dtype", default="fp16", show_default=True, help="With --device: precision of the weights.")
@click.option(
    "--targets",
    callback=lambda _context, _parameter, value: names(_context, _parameter, (value,)),
    required=True,
    help="Parts of the full model's latency, or times, with commas: 0.75,0.5,12ms.",
)
@click.option("--out", type=DIRECTORY, required=True, help="Checkpoint directory to create.")
@click.option("--sequences", type=int, default=32, show_default=True, help="Sequences that an evaluation reads.")
@click.option("--length", type=int, default=128, show_default=True, help="Tokens per sequence.")
@click.option("--max-evaluations", type=int, default=1000, show_default=True, help="Most losses to compute.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the split of the text.")
@click.option("--threads", type=int, help="CPU threads; fewer are faster while other programs compute.")
@click.option("--overwrite", is_flag=True, help="Replace an elastic checkpoint at --out, which may be CHECKPOINT.")
@json_option
def search_command(
    checkpoint: Path,
    text: tuple[Path, ...],
    latency_model: Path | None,
    device: str | None,
    shape: str | None,
    phase: str,
    tokens: int,
    dtype: str,
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
    from ..training.latency_model import LatencyModel
    from ..training.search_checkpoint import search_checkpoint

    if (latency_model is None) == (device is None):
        raise click.UsageError("pass --latency-model or --device, one of them")
    if shape is not None and device is None:
        raise click.UsageError("--shape belongs to --device")
    show_warnings()
    opened = ElasticCheckpoint.open(checkpoint)
    layers = opened.architecture.num_layers
    if device is not None:
        latency = analytic_model(opened, device, shape, phase, tokens, dtype)
    else:
        latency = LatencyModel.load(latency_model or "")

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
