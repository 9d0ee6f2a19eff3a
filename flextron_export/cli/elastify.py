"""`flextron-export elastify`."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import click

from ..training.elastic import LOSSES
from ..training.elastify import DTYPES, elastify
from ..training.optimizer import OPTIMIZERS
from .common import DIRECTORY, json_option, print_json, print_table, show_warnings


def default(name: str) -> dict[str, Any]:
    """The default of an option is that of the function; like the choices, it comes without importing torch."""
    return {"default": signature(elastify).parameters[name].default, "show_default": True}


@click.command("elastify", short_help="Turn a Hugging Face model into an elastic checkpoint.")
@click.argument("model", type=DIRECTORY)
@click.option("--text", type=DIRECTORY, multiple=True, required=True, help="Text: .txt, .txt.xz, .txt.gz; may repeat.")
@click.option("--out", type=DIRECTORY, required=True, help="Checkpoint directory to create.")
@click.option("--tokens", type=int, help="Tokens to train on; 0 only sorts.", **default("tokens"))
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    help="Learn from the original, the text, or both.",
    **default("loss"),
)
@click.option("--batch", type=int, help="Sequences per step.", **default("batch"))
@click.option("--length", type=int, help="Tokens per sequence.", **default("length"))
@click.option("--learning-rate", type=float, help="Highest learning rate; less for wider models by default.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="Optimiser.", **default("optimizer"))
@click.option("--budgets", type=DIRECTORY, help="JSON list of budgets: a name and [groups, neurons] per layer.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Type of written weights.",
    **default("dtype"),
)
@click.option("--seed", type=int, help="Seed of everything random.", **default("seed"))
@click.option("--threads", type=int, help="CPU threads; fewer are faster while other programs compute.")
@click.option("--device", help="Torch device, such as cpu or cuda; a GPU by default if there is one.")
@click.option("--overwrite", is_flag=True, help="Replace an elastic checkpoint at --out.")
@json_option
def elastify_command(model: Path, text: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Turn MODEL, a Hugging Face directory, into an elastic checkpoint.

    Heads and neurons are sorted by importance, then the sub-networks are trained together. The checkpoint still loads
    in transformers as the full model. A twentieth of the text is held out to measure every budget.

    \b
    Example:
      flextron-export elastify models/llama --text prose.txt --out checkpoint --tokens 1000000
    """
    show_warnings()
    checkpoint = elastify(model, text, out, progress=not as_json, **options)
    rows = [{**b.to_json(), "parameters": b.parameters(checkpoint.architecture)} for b in checkpoint.budgets]
    if as_json:
        print_json({"checkpoint": str(out), "budgets": rows})
        return
    columns = ["budget", "parameters", "nats per token"]
    table = [[row["name"], f"{row['parameters']:,}", f"{row['validation_loss']:.3f}"] for row in rows]
    print_table(f"{out}: parameters without embeddings, validation loss", columns, table)
