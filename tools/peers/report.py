"""Tables, goals and a plot of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TIMES = {
    "decode_short_ms": "decode, short",
    "decode_long_ms": "decode, long",
    "prefill_short_ms": "prefill, short",
    "prefill_long_ms": "prefill, long",
    "start_ms": "start",
}
HALF_GOAL = 0.95


def subjects(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was measured but for reading memory."""
    return {name: row for name, row in result["speed"].items() if name != "read"}


def show(result: dict[str, Any], console: Console) -> None:
    """Print milliseconds, ratios to the fastest of the others at full width, and distances to the floor."""
    read = result["speed"]["read"]
    table = Table(title=f"{result['dtype']}, one thread, contexts {result['contexts']}, ms of {result['clock']} time")
    for column in ("subject", *TIMES.values(), "x floor, short", "same tokens", "peak MB", "four budgets"):
        table.add_column(column, justify="right" if column != "subject" else "left")
    rows = subjects(result)
    full = next(iter(rows.values()))
    for name, row in rows.items():
        share = result["weight_bytes"][row["budget"]] / result["weight_bytes"][full["budget"]]
        floor = read["short_ms"] * share
        memory = result["memory_mb"].get(row["peer"], {}) if row["budget"] == full["budget"] else {}
        same = sum(a == b for a, b in zip(row["tokens"], full["tokens"], strict=True))
        table.add_row(
            name,
            *(f"{row[key]:.1f}" for key in TIMES),
            f"{row['decode_short_ms'] / floor:.2f}",
            f"{same} of {len(full['tokens'])}" if row["budget"] == full["budget"] else "–",
            *(f"{memory[key]:.0f}" if key in memory else "–" for key in ("one", "all")),
        )
    console.print(table)
    console.print(f"reading the full model's weights once: {read['short_ms']:.1f} ms")


def goals(result: dict[str, Any], ours: tuple[str, ...]) -> list[tuple[str, bool]]:
    """Ours against every other peer: the better layout of each column, whichever it is."""
    rows = subjects(result)
    budgets = list(result["weight_bytes"])
    full, half = ({n: r for n, r in rows.items() if r["budget"] == budget and r["peer"] in ours} for budget in budgets)
    verdicts = []
    for name, row in rows.items():
        if row["peer"] in ours:
            continue
        for key, label in TIMES.items():
            best = min(full, key=lambda n, key=key: full[n][key])  # type: ignore[misc]
            ratio = full[best][key] / row[key]
            verdicts.append((f"{label}: {best} at {ratio:.2f} of {name}", ratio <= 1))
        share = result["weight_bytes"][budgets[1]] / result["weight_bytes"][budgets[0]]
        best = min(half, key=lambda n: half[n]["decode_short_ms"])
        ratio = half[best]["decode_short_ms"] / row["decode_short_ms"]
        text = f"{best} at {ratio:.2f} of {name}; bytes {share:.2f}, at most {share / HALF_GOAL:.2f}"
        verdicts.append((text, ratio <= share / HALF_GOAL))
        memory, theirs = result["memory_mb"], result["memory_mb"].get(row["peer"], {})
        for key, label in (("one", "one budget"), ("all", "four budgets")):
            mine = {p: memory[p][key] for p in ours if key in memory.get(p, {})}
            if mine and key in theirs:
                best = min(mine, key=lambda p, mine=mine: mine[p])  # type: ignore[misc]
                ratio = mine[best] / theirs[key]
                verdicts.append((f"memory, {label}: {best} at {ratio:.2f} of {name}", ratio <= 1))
    return verdicts


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of every time, relative to the first subject (this project, full width)."""
    from matplotlib.figure import Figure

    rows = subjects(result)
    first = next(iter(rows.values()))
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for number, (name, row) in enumerate(rows.items()):
        places = [i + number * width for i in range(len(TIMES))]
        axes.bar(places, [row[key] / first[key] for key in TIMES], width, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(TIMES))], list(TIMES.values()))
    axes.set_ylabel(f"time / that of {next(iter(rows))}")
    axes.set_title(f"{result['dtype']}, one thread, {result['date'][:10]}")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
