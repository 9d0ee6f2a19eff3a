"""`flextron-export elastify`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("elastify")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="UTF-8 text to train on; .txt, .txt.xz or .txt.gz; repeat for more files.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint directory to create.")
@click.option("--tokens", type=int, default=150_000, show_default=True, help="Tokens to train on; 0 only sorts.")
@click.option(
    "--loss",
    type=click.Choice(["distill", "ce", "mix"]),
    default="distill",
    show_default=True,
    help="Learn from the original model, from the text, or from both.",
)
@click.option("--batch", type=int, default=16, show_default=True, help="Sequences per step.")
@click.option("--length", type=int, default=128, show_default=True, help="Tokens per sequence.")
@click.option("--learning-rate", type=float, default=6e-4, show_default=True, help="Highest learning rate.")
@click.option(
    "--optimizer", type=click.Choice(["adamw", "muon"]), default="adamw", show_default=True, help="Optimiser."
)
@click.option(
    "--budgets",
    type=click.Path(path_type=Path),
    help="JSON list of budgets, one [groups, neurons] per layer; default: uniform ones.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Type of the written weights; auto: the model's.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option("--threads", type=int, help="CPU threads; with other work on the machine, fewer can be faster.")
@click.option("--overwrite", is_flag=True, help="Replace an elastic checkpoint at --out.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def elastify_command(
    model: Path,
    text: tuple[Path, ...],
    out: Path,
    budgets: Path | None,
    overwrite: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Turn MODEL, a Hugging Face directory, into an elastic checkpoint.

    Heads and neurons are sorted by importance, then the sub-networks are trained together. The checkpoint still loads
    in transformers as the full model.

    \b
    Example:
      flextron-export elastify models/llama --text prose.txt --out work/elastic --tokens 1000000
    """
    from ..training.elastify import elastify

    checkpoint = elastify(model, text, out, budgets=budgets, overwrite=overwrite, progress=not as_json, **settings)  # type: ignore[arg-type]
    rows = [{**b.to_json(), "parameters": b.parameters(checkpoint.architecture)} for b in checkpoint.budgets]
    if as_json:
        click.echo(json.dumps({"checkpoint": str(out), "budgets": rows}))
        return
    click.echo(f"{out}: {len(rows)} budgets")
    for row in rows:
        click.echo(f"  {row['name']:>8}  {row['parameters']:>14,} parameters  {row['validation_loss']:.3f} nats/token")
