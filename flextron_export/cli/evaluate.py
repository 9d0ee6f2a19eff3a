"""`flextron-export evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import DIRECTORY, json_option, names, print_json, print_table, show_warnings, target_options, track

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation


@click.command("evaluate", short_help="Perplexity and task scores of every budget.")
@click.argument("path", type=DIRECTORY, metavar="CKPT|BUNDLE")
@click.option(
    "--text",
    multiple=True,
    help="Text to predict: .txt or .jsonl, also .xz or .gz; or dataset:DIRECTORY_OR_NAME[:SPLIT[:CONFIGURATION]].",
)
@click.option("--text-field", default="text", show_default=True, help="Field with the text in JSONL and data sets.")
@click.option(
    "--tasks",
    multiple=True,
    callback=names,
    help="Tasks of lm-evaluation-harness, with commas, or paths of task files; may repeat.",
)
@click.option("--budget", "budgets", multiple=True, callback=names, help="Budget to score; may repeat. All by default.")
@click.option("--length", type=int, help="Tokens that a window of the text reads; 512 or what the model holds.")
@click.option("--stride", type=int, help="Tokens between the starts of two windows; by default they do not overlap.")
@click.option("--max-tokens", type=int, help="Predict only that many tokens of the text.")
@click.option("--limit", type=int, help="Score only that many documents of every task.")
@click.option("--num-fewshot", type=click.IntRange(min=0), help="Examples in front of every question of a task.")
@click.option("--batch", type=int, help="Most sequences in a call; by default it depends on their length.")
@click.option("--device", help="Torch device for a checkpoint, such as cpu or cuda; a GPU by default.")
@click.option("--plot", type=DIRECTORY, help="Draw the scores against parameters to this .png, .svg or .pdf.")
@target_options
@json_option
@click.pass_context
def evaluate_command(
    context: click.Context, /, path: Path, plot: Path | None, target: str, as_json: bool, **options: Any
) -> None:
    """Score budgets of an elastic checkpoint (in torch) or of a bundle (on a target).

    On a text: perplexity, nats per token, bits per byte. On tasks of lm-evaluation-harness (pip install
    'flextron-export[eval]'): their metrics. Where the tasks' data are not at hand, the message says how to get them.

    \b
    Example:
      flextron-export evaluate checkpoint --text prose.txt
      flextron-export evaluate bundle --tasks arc_easy,lambada_openai --budget p50 --target onnxruntime-cpu
    """
    from ..evaluation.evaluate import evaluate

    show_warnings()
    if plot is not None:
        from ..plots import check_image

        check_image(plot)
    # The default target is no wish: a checkpoint runs on none.
    given = context.get_parameter_source("target") is not click.core.ParameterSource.DEFAULT
    found = evaluate(path, target=target if given else None, track=track, **options)
    if plot is not None:
        from ..plots import scores_against_parameters

        scores_against_parameters(found, plot)
    if as_json:
        print_json(found.to_json())
        return
    where = ", ".join(str(value) for value in found.about.values())
    if found.scores[0].text is not None:
        _print_text(found, where)
    if found.scores[0].tasks:
        _print_tasks(found, where)


def _print_text(found: Evaluation, where: str) -> None:
    rows = []
    for s in found.scores:
        if s.text is not None:
            numbers = f"{s.text.perplexity:.3f}", f"{s.text.nats_per_token:.4f}", f"{s.text.bits_per_byte:.4f}"
            rows.append([s.budget.name, f"{s.parameters:,}", *numbers, f"{s.text.tokens:,}", f"{s.text.seconds:.1f}"])
    columns = ["budget", "parameters", "perplexity", "nats per token", "bits per byte", "tokens", "seconds"]
    print_table(f"{found.path} ({where})", columns, rows)


def _print_tasks(found: Evaluation, where: str) -> None:
    rows = []
    for task, metrics in found.scores[0].tasks.items():
        for metric in metrics:
            if "_stderr" not in metric:
                rows.append([f"{task}: {metric}", *(_cell(s.tasks[task], metric) for s in found.scores)])
    print_table(f"{found.path} ({where})", ["task: metric", *(s.budget.name for s in found.scores)], rows)


def _cell(metrics: dict[str, float], metric: str) -> str:
    name, _, more = metric.partition(",")
    error = metrics.get(f"{name}_stderr{',' + more if more else ''}")
    return f"{metrics[metric]:.4g}" + ("" if error is None else f" ± {error:.2g}")
