"""From results to numbers, tables and plots."""

from __future__ import annotations

import copy
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from flextron_export.files import write_json, write_text
from tools.claims import plots
from tools.claims.protocol import ORDERS, Protocol
from tools.claims.runs import Store
from tools.claims.tables import Spread, loss_between, markdown, verdict
from tools.claims.widths import BUDGETS, budget_named

SMALLEST = "p50"
NOISE = 0.01
"""Nats within which two means count as equal."""

LABELS = {
    "base": "base",
    "order": "base, sorted and cut",
    "elastic": "elastic",
    "scratch": "from scratch",
    "alone": "one width alone",
    "longer": "base, trained on",
    "weighted": "elastic, full model weighted",
    "around": "elastic around the networks of",
}
"""First word of a run's name -> what tables call it."""


class Numbers:
    """Results by the name of the run, one per seed."""

    def __init__(self, runs: dict[str, list[dict[str, Any]]], protocol: Protocol) -> None:
        self.runs = runs
        self.architecture = protocol.shape.architecture(protocol.text.vocabulary)
        self.latencies = {n: protocol.latency(budget_named(n, self.architecture)) for n in (SMALLEST, "full")}

    def of_first_seed(self) -> Numbers:
        """The same of one seed."""
        one = copy.copy(self)
        one.runs = {name: results[:1] for name, results in self.runs.items()}
        return one

    def __contains__(self, name: str) -> bool:
        return name in self.runs

    def loss(self, name: str, budget: str = "full") -> Spread | None:
        """Nats per token of a budget after a run, or None if it was not measured."""
        results = self.runs.get(name, [])
        if not results or budget not in results[0]["losses"]:
            return None
        return Spread(tuple(result["losses"][budget] for result in results))

    def points(self, way: str) -> list[dict[str, Any]]:
        """What the first seed found, one point per target."""
        return self._points(way, 0)

    def point(self, way: str, number: int, quantity: str) -> Spread:
        """A quantity of one target's point."""
        seeds = range(len(self.runs[way]))
        return Spread(tuple(self._points(way, seed)[number][quantity] for seed in seeds))

    def _points(self, way: str, seed: int) -> list[dict[str, Any]]:
        return sorted(self.runs[way][seed]["points"], key=lambda p: -p["target"])

    def widths(self, way: str, number: int) -> np.ndarray:
        """Shares of the full widths at one target, a mean over the seeds: [layers, 2], heads and neurons."""
        full = np.array([self.architecture.num_kv_heads, self.architecture.intermediate_size])
        seeds = range(len(self.runs[way]))
        return np.mean([np.array(self._points(way, seed)[number]["layers"]) / full for seed in seeds], 0)

    def loss_at(self, way: str, latency: Spread) -> Spread | None:
        """Loss of a way to choose widths at a latency of each seed; its points, the smallest and the full network are
        joined by lines."""
        values = []
        for seed, at in enumerate(latency.values):
            start = "order-sorted" if way.endswith("-sorted") else self.starting("elastic-sorted")[-1]
            losses = self.runs[start][seed]["losses"]
            ends = [(self.latencies[name], losses[name]) for name in (SMALLEST, "full")]
            points = [(p["latency"], p["loss"]) for p in self._points(way, seed)]
            values.append(loss_between([*ends, *points], at))
        found = [value for value in values if value is not None]
        return Spread(tuple(found)) if len(found) == len(values) else None

    def share(self, name: str, quantity: str) -> float:
        """`tokens` or `operations` of a run, relative to the base's."""
        return float(self.runs[name][0][quantity] / self.runs["base"][0][quantity])

    def parameters(self, budget: str) -> float:
        """Of a budget, without the embedding, relative to the full model's."""
        counts = [budget_named(name, self.architecture).parameters(self.architecture) for name in (budget, "full")]
        return counts[0] / counts[1]

    def starting(self, prefix: str) -> list[str]:
        """Names of runs, in the order of the protocol."""
        return [name for name in self.runs if name.startswith(prefix)]


def collect(store: Store, protocol: Protocol, seeds: int, claims: Sequence[str]) -> Numbers:
    """The results of every run that the claims need."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, seeds + 1):
        plan = protocol.plans(seed)
        for recipe in dict.fromkeys(r for claim in claims for r in plan[claim]):
            runs.setdefault(recipe.name, []).append({"seed": seed, **store.run(recipe)})
    return Numbers(runs, protocol)


def write_report(store: Store, protocol: Protocol, seeds: int, claims: Sequence[str], out: Path) -> dict[str, Any]:
    """Write `claims.json`, `claims-tables.md` and the plots into a directory; return what is in the JSON file."""
    numbers = collect(store, protocol, seeds, claims)
    value = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "protocol": asdict(protocol),
        "seeds": list(range(1, seeds + 1)),
        "runs": numbers.runs,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "claims.json", value)
    write_text(out / "claims-tables.md", "\n".join(TABLES[claim](numbers) for claim in claims))
    for claim in claims:
        for name, draw in PLOTS.get(claim, []):
            draw(numbers, out / name)
    return value


def machine() -> str:
    """Processor and Python of this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, Python {platform.python_version()}"


def cell(value: Spread | None) -> str:
    return "–" if value is None else str(value)


def sorting(numbers: Numbers) -> str:
    """Claim (a)."""
    rows = [[order, *(cell(numbers.loss(f"order-{order}", budget)) for budget in BUDGETS)] for order in ORDERS]
    return "### (a)\n\n" + markdown(["order", *BUDGETS], rows)


def from_scratch(numbers: Numbers) -> str:
    """Claim (b)."""
    elastic, scratch = numbers.starting("elastic-sorted"), numbers.starting(f"scratch-{SMALLEST}")
    rows = []
    for name in elastic:
        for what in ("tokens", "operations"):
            # Where no run has as many operations, the network that read everything is nearest, or has more.
            nearest = min(scratch, key=lambda s: abs(numbers.share(s, what) - numbers.share(name, what)))
            rows.append(_compared(numbers, name, nearest, SMALLEST))
        rows.append(_compared(numbers, name, f"scratch-{SMALLEST}-100", SMALLEST))
    names = [name for name in ("base", "order-sorted", *elastic, *scratch) if name in numbers]
    return "### (b)\n\n" + _losses(numbers, names) + "\n" + markdown(COMPARED, list(dict.fromkeys(rows)))


def one_or_many(numbers: Numbers) -> str:
    """Claim (c)."""
    elastic, alone = numbers.starting("elastic-sorted"), numbers.starting("alone-")
    rows = [_compared(numbers, elastic[-1], name, name.split("-")[1]) for name in alone]
    return "### (c)\n\n" + _losses(numbers, [*elastic, *alone]) + "\n" + markdown(COMPARED, rows)


COMPARED = ("elastic, tokens", "width", "against", "tokens", "operations", "difference", "elastic is")


def _compared(numbers: Numbers, elastic: str, other: str, budget: str) -> tuple[str, ...]:
    """The loss of a width after an elastic run against that of a network trained for that width alone."""
    ours, theirs = numbers.loss(elastic, budget), numbers.loss(other, budget) or numbers.loss(other)
    assert ours is not None and theirs is not None
    shares = [f"{100 * numbers.share(n, q):.1f} %" for n, q in ((elastic, "tokens"), (other, "tokens"))]
    operations = f"{numbers.share(other, 'operations') / numbers.share(elastic, 'operations'):.2f} of elastic's"
    apart = ours - theirs
    word = LABELS[other.split("-")[0]]
    return (shares[0], budget, word, shares[1], operations, apart.signed(), verdict(apart, NOISE))


def full_model(numbers: Numbers) -> str:
    """Claim (f)."""
    base = numbers.loss("base")
    rows = []
    for name in ("base", *numbers.starting("elastic-sorted"), *numbers.starting("longer-")):
        loss = numbers.loss(name)
        if loss is not None and base is not None:
            tokens = f"{100 * numbers.share(name, 'tokens'):.1f} %"
            apart = loss - base
            row = [LABELS[name.split("-")[0]], tokens, str(loss), apart.signed()]
            rows.append([*row, "–" if name == "base" else verdict(apart, NOISE)])
    return "### (f)\n\n" + markdown(["run", "tokens", "full", "against the base", "which is"], rows)


def router_and_search(numbers: Numbers) -> str:
    """Claim (d): on the elastic model, and on the base that is only sorted. No network is slower than its target."""
    parts = []
    for title, suffix in (("only sorted", "-sorted"), ("after elastic training", "")):
        ways = [way for way in ("uniform", "search", "static", "surrogate") if f"{way}{suffix}" in numbers]
        rows = []
        for i, point in enumerate(numbers.points(f"static{suffix}")):
            losses, latencies = (
                {way: numbers.point(f"{way}{suffix}", i, q) for way in ways} for q in ("loss", "latency")
            )
            row = [f"{losses[way]} at {latencies[way].mean:.3f}" for way in ways]
            row += [difference(losses["static"], losses[way]) for way in ("uniform", "search")]
            rows.append([f"{point['target']:.3f}", *row])
        header = ["target", *(WAY_NAMES[way] for way in ways), "router − uniform", "router − search"]
        parts.append(f"### (d) {title}\n\n" + markdown(header, rows))
    return "\n".join(parts)


WAY_NAMES = {"uniform": "uniform", "search": "search", "static": "static router", "surrogate": "on a surrogate"}


def dynamic_and_static(numbers: Numbers) -> str:
    """Claim (e)."""
    rows = []
    for i, point in enumerate(numbers.points("dynamic")):
        loss, latency, exported = (numbers.point("dynamic", i, q) for q in ("loss", "latency", "exported_latency"))
        row = [f"{point['target']:.3f}", f"{loss} at {latency.mean:.3f}"]
        row += [difference(loss, numbers.loss_at(way, latency)) for way in ("static", "search")]
        rows.append([*row, f"{exported.mean:.3f}", difference(loss, numbers.loss_at("static", exported))])
    header = ["target", "dynamic router", "− static router", "− search", "latency of the exported graph"]
    return "### (e)\n\n" + markdown([*header, "− static router at that"], rows)


def further(numbers: Numbers) -> str:
    """Runs of one seed beside the claims."""
    numbers = numbers.of_first_seed()
    names = [numbers.starting("elastic-")[-1], *numbers.starting("weighted-"), *numbers.starting("around-")]
    names += [f"scratch-{budget}-100" for budget in ("p75", SMALLEST) if f"scratch-{budget}-100" in numbers]
    text = "### (g)\n\n" + _losses(numbers, names)
    around = {name.split("-")[1]: name for name in numbers.starting("around-")}
    rows = []
    for i, point in enumerate(numbers.points("static")):
        ways = [f"{numbers.point(way, i, 'loss').values[0]:.3f}" for way in ("uniform", "search", "static", "joint")]
        near = [f"{numbers.point(name, i, 'loss').values[0]:.3f}" for name in around.values()]
        rows.append([f"{point['target']:.3f}", *ways, *near])
    header = ["target", "uniform", "search", "static router", "and joint fine-tune", *(f"around {n}" for n in around)]
    full = [numbers.runs["static"][0]["full"]] * 3 + [numbers.runs["joint"][0]["full"]]
    full += [numbers.runs[name][0]["losses"]["full"] for name in around.values()]
    return text + "\n" + markdown(header, [*rows, ["1", *(f"{loss:.3f}" for loss in full)]])


def difference(loss: Spread, other: Spread | None) -> str:
    if other is None:
        return "–"
    return f"{(loss - other).signed()} ({verdict(loss - other, NOISE)})"


def label(name: str) -> str:
    """What tables call a run."""
    first, second = [*name.split("-"), ""][:2]
    if first == "around":
        return f"{LABELS[first]} {second}"
    return LABELS[first] + (", unsorted start" if name.startswith("elastic-unsorted") else "")


def _losses(numbers: Numbers, names: Sequence[str]) -> str:
    """Tokens, operations and losses of runs; a network trained from scratch is shown under the width it has."""
    rows = []
    for name in names:
        losses = {budget: numbers.loss(name, budget) for budget in BUDGETS}
        if name.startswith("scratch-"):
            losses = {name.split("-")[1]: losses["full"]}
        shares = [f"{100 * numbers.share(name, quantity):.1f} %" for quantity in ("tokens", "operations")]
        rows.append([label(name), *shares, *(cell(losses.get(budget)) for budget in BUDGETS)])
    return markdown(["run", "tokens", "operations", *BUDGETS], rows)


TABLES = {
    "a": sorting,
    "b": from_scratch,
    "c": one_or_many,
    "d": router_and_search,
    "e": dynamic_and_static,
    "f": full_model,
    "g": further,
}
PLOTS = {
    "a": [("claims-sorting.png", plots.sorting)],
    "b": [("claims-quality.png", plots.quality)],
    "d": [("claims-routers.png", plots.routers), ("claims-widths.png", plots.widths)],
}
