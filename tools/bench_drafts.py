"""Speculative decoding on real text: speed with and without drafts, interleaved, and how many drafts are accepted.

    python tools/bench_drafts.py BUNDLE [--budget full] [--text FILE] [--rounds 3] [--lengths 2,4] [--json FILE]

Prompts are excerpts of the text. In every round each is continued without drafts and with every draft and length,
greedily and sampled. Time is processor time of the one thread that computes, so that waiting for other processes does
not count; the LM head, the choice of tokens and all else between two tokens are part of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from flextron_export import Runner
from flextron_export.runtime.draft_costs import drafts_of
from flextron_export.training.corpus import read_text

TEXT = Path(__file__).resolve().parents[1] / "calibration" / "text" / "kjv.txt.xz"
SETTINGS: dict[str, dict[str, Any]] = {"greedy": {}, "sampled": {"temperature": 1.0}}
PROMPT, TOKENS, PROMPTS = 48, 64, 3


def collect(bundle: Path, budget: str | None, text: Path, rounds: int, lengths: list[int]) -> list[dict[str, Any]]:
    """One record per round, prompt, setting and way of drafting: processor milliseconds per token, drafts accepted."""
    options: dict[str, Any] = {"threads": 1, "prefix_cache": 0, "budget": budget}
    plain = Runner(bundle, **options)
    ways = {("none", 0): plain}
    for narrow in drafts_of(plain.bundle, plain.selection.budget):
        for length in lengths:
            ways[narrow.name, length] = Runner(plain.bundle, speculative=length, draft=narrow.name, **options)
    ids = plain.tokenizer.encode("\n".join(read_text([text]))[:200_000])
    prompts = [ids[at : at + PROMPT] for at in range(0, len(ids) - PROMPT, len(ids) // PROMPTS)][:PROMPTS]
    records = []
    for number in range(rounds + 1):
        for place, prompt in enumerate(prompts):
            for label, settings in SETTINGS.items():
                for (draft, length), runner in ways.items():
                    generation = runner.generate_ids(prompt, TOKENS, seed=number, stop_on_eos=False, **settings)
                    next(generation)
                    start = time.thread_time()
                    generation.read()
                    taken = (time.thread_time() - start) * 1e3 / (TOKENS - 1)
                    drafted = generation.timings.drafted
                    about = {"round": number, "prompt": place, "sampling": label, "draft": draft, "length": length}
                    counts = {"drafted": drafted.tokens, "accepted": drafted.accepted, "rounds": drafted.rounds}
                    if number:  # the first round prepares
                        records.append({**about, "ms": taken, **counts})
    return records


def report(records: list[dict[str, Any]]) -> None:
    """A row per setting and way of drafting."""
    table = Table("sampling", "draft", "length", "ms per token", "speed", "accepted", title="medians of processor time")
    for label in SETTINGS:
        base = statistics.median(r["ms"] for r in records if (r["sampling"], r["draft"]) == (label, "none"))
        for draft, length in dict.fromkeys((r["draft"], r["length"]) for r in records):
            rows = [r for r in records if (r["sampling"], r["draft"], r["length"]) == (label, draft, length)]
            taken, drafted = statistics.median(r["ms"] for r in rows), sum(r["drafted"] for r in rows)
            accepted = f"{sum(r['accepted'] for r in rows) / drafted:.0%}" if drafted else "–"
            table.add_row(label, draft, str(length), f"{taken:.3f}", f"{base / taken:.2f}x", accepted)
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--budget")
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", default="2,4")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    lengths = [int(n) for n in arguments.lengths.split(",")]
    records = collect(arguments.bundle, arguments.budget, arguments.text, arguments.rounds, lengths)
    report(records)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
