"""`flextron-export elastify`."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import click

from ..training.distribution import is_main_process, leave
from ..training.elastify import DTYPES, elastify
from ..training.importance import IMPORTANCE
from ..training.optimizer import OPTIMIZERS
from ..training.sampling import SAMPLINGS
from ..training.settings import LOSSES, PRECISIONS
from .common import DIRECTORY, json_option, print_json, print_table, show_warnings, text_options, work_options


def default(name: str) -> dict[str, Any]:
    """The default of an option is that of the function; like the choices, it comes without importing torch."""
    return {"default": signature(elastify).parameters[name].default, "show_default": True}


@click.command("elastify", short_help="Turn a Hugging Face model into an elastic checkpoint.")
@click.argument("model", type=DIRECTORY)
@text_options
@click.option("--out", type=DIRECTORY, required=True, help="Checkpoint directory to create.")
@click.option("--tokens", type=int, help="Tokens to train on; 0 only sorts.", **default("tokens"))
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    help="Learn from the original, the text, or both.",
    **default("loss"),
)
@click.option("--batch", type=int, help="Sequences per step, over all processes.", **default("batch"))
@click.option("--length", type=int, help="Tokens per sequence.", **default("length"))
@click.option("--learning-rate", type=float, help="Highest learning rate; less for wider models by default.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="Optimiser.", **default("optimizer"))
@click.option("--warmup", type=float, help="Share of steps over which the rate rises.", **default("warmup"))
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Of the computation; auto is bf16 where that is fast.",
    **default("precision"),
)
@click.option("--accumulate", type=int, help="Parts to compute a batch in, to save memory.", **default("accumulate"))
@click.option("--recompute", is_flag=True, help="Gradient checkpointing: slower, less memory.")
@click.option(
    "--full-weight", type=float, help="Weight of the full model's loss against another's.", **default("full_weight")
)
@click.option(
    "--sampling",
    type=click.Choice(SAMPLINGS),
    help="Which sub-networks train together.",
    **default("sampling"),
)
@click.option("--around", type=DIRECTORY, help="Budgets that --sampling router stays near: a checkpoint, or JSON.")
@click.option("--budgets", type=DIRECTORY, help="JSON list of budgets: a name and [groups, neurons] per layer.")
@click.option("--importance", type=click.Choice(IMPORTANCE), help="Measure to sort by.", **default("importance"))
@click.option(
    "--importance-sequences",
    type=int,
    help="Sequences of the text to measure importance on.",
    **default("importance_sequences"),
)
@click.option("--report", type=DIRECTORY, help="Draw the importance curves of every layer to this .png, .svg or .pdf.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Type of written weights.",
    **default("dtype"),
)
@work_options
@click.option("--save-every", type=int, help="Steps between saved states; 0: none.", **default("save_every"))
@click.option("--tensorboard", type=DIRECTORY, help="Directory for TensorBoard files.")
@click.option("--seed", type=int, help="Seed of everything random.", **default("seed"))
@click.option("--threads", type=int, help="CPU threads; fewer are faster while other programs compute.")
@click.option("--device", help="Torch device, such as cpu or cuda; a GPU by default if there is one.")
@click.option("--overwrite", is_flag=True, help="Replace an elastic checkpoint at --out.")
@json_option
def elastify_command(model: Path, text: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Turn MODEL, a Hugging Face directory, into an elastic checkpoint.

    Heads and neurons are sorted by importance, then the sub-networks are trained together. The checkpoint still loads
    in transformers as the full model. A twentieth of the text is held out to measure every budget. Several processes
    train together if a launcher starts them, and a killed run goes on with --resume: see docs/training.md.

    \b
    Example:
      flextron-export elastify models/llama --text prose.txt --out checkpoint --tokens 1000000
    """
    show_warnings()
    checkpoint = elastify(model, text, out, progress=not as_json, **options)
    leave()
    if not is_main_process():
        return
    rows = [{**b.to_json(), "parameters": b.parameters(checkpoint.architecture)} for b in checkpoint.budgets]
    if as_json:
        print_json({"checkpoint": str(out), "budgets": rows})
        return
    columns = ["budget", "parameters", "nats per token"]
    table = [[row["name"], f"{row['parameters']:,}", f"{row['validation_loss']:.3f}"] for row in rows]
    print_table(f"{out}: parameters without embeddings, validation loss", columns, table)
