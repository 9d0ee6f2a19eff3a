"""The main job: train a small model, make it elastic, export, compile, calibrate, run at two latency targets.

    python tools/demo.py [--model HF_DIRECTORY] [--text FILE] [--work DIRECTORY] [--threads N]

Every step but the measuring keeps its result and is skipped when it was done with the same settings before.
Exits with an error if the slowest budget does not take at least twice the time of the fastest: then overhead was
measured, not width.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from flextron_export import Runner, build, calibrate, elastify, export
from flextron_export.bundle.manifest import Bundle
from flextron_export.cli.common import show_warnings, track
from flextron_export.errors import FlextronError, InputError
from flextron_export.files import sha256, write_json
from flextron_export.plots import quality_against_latency
from flextron_export.runtime.calibrate import PROMPT_LENGTHS
from flextron_export.runtime.table import LatencyTable
from flextron_export.training.pretrain import pretrain
from flextron_export.version import __version__

ROOT = Path(__file__).resolve().parents[1]
TEXT = ROOT / "calibration" / "text" / "kjv.txt.xz"
PROMPT = "And it came to pass in those days, that"
NEW_TOKENS = 96
CONTEXT = 64
LEAST_RATIO = 2.0

T = TypeVar("T")

# Without a terminal the width would be 80, which folds the table.
console = Console(width=None if sys.stdout.isatty() else 130)


class Steps:
    """Runs steps once: done is what exists and was made with the same version, settings and steps before it."""

    def __init__(self, work: Path) -> None:
        self.path, self.key = work / "steps.json", __version__
        self.done: dict[str, Any] = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, out: Path, settings: dict[str, Any], step: Callable[[], Any]) -> None:
        self.key = hashlib.sha256(f"{self.key} {name} {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()
        console.rule(f"[bold]{len(self.seconds) + 1}. {name}", align="left")
        if self.done.get(name, {}).get("key") == self.key and out.exists():
            self.seconds[name] = 0.0
            console.print(f"already there: {out} (took {self.done[name]['seconds']:.0f} s)")
            return
        start = time.perf_counter()
        step()
        self.seconds[name] = time.perf_counter() - start
        self.done[name] = {"key": self.key, "seconds": round(self.seconds[name], 1)}
        write_json(self.path, self.done)
        console.print(f"{name}: {self.seconds[name]:.1f} s")

    def always(self, name: str, step: Callable[[], T]) -> T:
        """A step that is never skipped: what was true of the machine yesterday need not be true now."""
        console.rule(f"[bold]{len(self.seconds) + 1}. {name}", align="left")
        start = time.perf_counter()
        result = step()
        self.seconds[name] = time.perf_counter() - start
        self.done[name] = {"seconds": round(self.seconds[name], 1)}
        return result


def defaults(function: Callable[..., Any]) -> dict[str, str]:
    """What a function does unless told otherwise, so that a changed default is a changed setting."""
    return {name: str(p.default) for name, p in inspect.signature(function).parameters.items()}


def two_targets(table: LatencyTable, bundle: Bundle) -> list[float]:
    """Two targets in ms per token: between the two fastest budgets' p95, and between the two slowest's."""
    if len(bundle.budgets) < 3:
        raise InputError("The demo needs at least three budgets.", fix="use a model with more KV groups or FFN neurons")
    p95 = sorted(table.budgets[b.name].ms_per_token(CONTEXT) for b in bundle.budgets)
    return [round((p95[0] + p95[1]) / 2, 3), round((p95[-2] + p95[-1]) / 2, 3)]


def run_at(bundle: Bundle, table: LatencyTable, milliseconds: float, threads: int | None) -> dict[str, Any]:
    """Generate at a target; the text streams to the console."""
    console.rule(f"[bold]running at {milliseconds:.2f} ms per token", align="left")
    with Runner(bundle, milliseconds, threads=threads, calibration=table, context=CONTEXT) as runner:
        console.print(f"[cyan]{runner.selection.reason}", highlight=False)
        console.print(f"[bold]{PROMPT}", end="", highlight=False)
        for piece in runner.generate(PROMPT, NEW_TOKENS, temperature=0.7, top_p=0.9, seed=1):
            console.print(piece, end="", highlight=False, markup=False)
        timings = runner.timings
        observed = (
            f"p50 {timings.p50:.2f} ms, p95 {timings.p95:.2f} ms per token, first token {timings.first_token_ms:.1f} ms"
        )
        console.print(f"\n[cyan]observed: {observed}", highlight=False)
        return {
            "target_ms": milliseconds,
            "budget": runner.selection.budget.name,
            "p50": timings.p50,
            "p95": timings.p95,
        }


def budget_table(bundle: Bundle, table: LatencyTable, targets: list[float]) -> Table:
    """One row per budget; whether it meets a target is decided by its measured p95."""
    shown = Table(
        title=f"budgets on {table.device['cpu']}, {table.target}, {table.layout}, {table.device['threads']} thread(s)"
    )
    columns = (
        "budget",
        "parameters",
        "loss (nats)",
        "ms/token p50",
        "p95",
        f"first of {PROMPT_LENGTHS[0]}, ms",
        "memory MB",
    )
    for column in (*columns, *(f"≤ {t:.2f} ms" for t in targets)):
        shown.add_column(column, justify="left" if column == "budget" else "right")
    for budget in bundle.budgets:
        cost = table.budgets[budget.name]
        decode = min(cost.decode, key=lambda t: abs(t.tokens - CONTEXT))
        loss = "–" if budget.validation_loss is None else f"{budget.validation_loss:.3f}"
        met = ("met" if cost.ms_per_token(CONTEXT) <= t else "missed" for t in targets)
        shown.add_row(
            budget.name,
            f"{cost.parameters / 1e6:.2f}M",
            loss,
            f"{decode.p50:.2f}",
            f"{decode.p95:.2f}",
            f"{cost.first_token[0].p50:.1f}",
            f"{cost.memory_bytes(CONTEXT) / 1e6:.1f}",
            *met,
        )
    return shown


def demo(model: Path | None, text: Path, work: Path, threads: int | None) -> None:
    work.mkdir(parents=True, exist_ok=True)
    steps, began = Steps(work), time.perf_counter()
    corpus = sha256(text)
    base, checkpoint, bundle_path = model or work / "base", work / "elastic", work / "bundle"
    if model is None:
        settings = {"text": corpus, **defaults(pretrain)}
        steps.run("pretrain", base, settings, lambda: pretrain([text], base, overwrite=True))
    settings = {"text": corpus, **defaults(elastify)}
    if model is not None:
        settings.update((file.name, sha256(file)) for file in sorted(model.glob("*")) if file.is_file())
    steps.run("elastify", checkpoint, settings, lambda: elastify(base, [text], checkpoint, overwrite=True))
    steps.run(
        "export and verify", bundle_path, {}, lambda: export(checkpoint, bundle_path, overwrite=True, track=track)
    )

    def compile_engines() -> None:
        for layout in ("shared", "per-budget"):
            record = build(bundle_path, "tensorrt-rtx", layout=layout, track=track)
            size, seconds = (sum(plan[key] for plan in record["plans"]) for key in ("bytes", "seconds"))
            console.print(
                f"TensorRT-RTX {record['library_version']}, {layout}: {len(record['plans'])} engine(s), "
                f"{size / 1e6:.1f} MB, {seconds:.1f} s, for SM {', '.join(map(str, record['compute_capabilities']))}"
            )

    steps.run("compile TensorRT engines", bundle_path / "engines" / "tensorrt-rtx", {}, compile_engines)
    bundle = Bundle.open(bundle_path)
    table = steps.always("calibrate", lambda: calibrate(bundle, threads=threads, track=track))
    targets = two_targets(table, bundle)
    runs = [run_at(bundle, table, target, threads) for target in targets]
    console.rule("[bold]result", align="left")
    console.print(budget_table(bundle, table, targets))
    for run in runs:
        verdict = "met" if run["p95"] <= run["target_ms"] else "missed"
        console.print(
            f"target {run['target_ms']:.2f} ms: ran {run['budget']}, observed p95 {run['p95']:.2f} ms: {verdict}"
        )
    labels = {f"target {t:.2f} ms": t for t in targets}
    plot = quality_against_latency(bundle, table, work / "quality-against-latency.png", context=CONTEXT, targets=labels)
    write_json(
        work / "result.json",
        {"runs": runs, "table": table.to_json(), "seconds": {n: s["seconds"] for n, s in steps.done.items()}},
    )
    console.print("seconds: " + ", ".join(f"{name} {s['seconds']:.0f}" for name, s in steps.done.items()))
    console.print(f"this run: {time.perf_counter() - began:.0f} s; plot: {plot}; numbers: {work / 'result.json'}")
    p50 = [min(c.decode, key=lambda t: abs(t.tokens - CONTEXT)).p50 for c in table.budgets.values()]
    if (ratio := max(p50) / min(p50)) < LEAST_RATIO:
        raise FlextronError(
            f"The slowest budget takes {ratio:.2f} times as long as the fastest; {LEAST_RATIO} were expected.",
            cause="the model is too small to measure its width, or the machine was busy while calibrating",
            fix="run the demo again",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face model directory to use instead of training one")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "demo")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads when running; a model this small gains nothing from two"
    )
    options = parser.parse_args()
    show_warnings()
    try:
        demo(options.model, options.text, options.work, options.threads)
    except FlextronError as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
