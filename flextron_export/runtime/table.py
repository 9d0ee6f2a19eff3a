"""The latency table: what every budget was measured to cost on one device. Plain data, no measuring here.

It lies in the bundle as `latency/<device>.<target>.<layout>.<dtype>.json`, or in the user's cache directory if that
cannot be written; docs/latency-table.md has the schema.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.engines import engine_directory, plan_hashes, source_hashes
from ..bundle.manifest import Bundle
from ..errors import FlextronError, InputError
from ..files import MALFORMED, integers, read_object, user_cache, write_json
from .capacity import capacity_for

FORMAT = "flextron-latency"
VERSION = 2


@dataclass(frozen=True)
class Timing:
    """Milliseconds measured at one size.

    Attributes:
        tokens: context length (decode) or prompt length (first token).
        samples: number of measurements.
    """

    tokens: int
    samples: int
    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, tokens: int, milliseconds: Sequence[float]) -> Timing:
        p50, p95, p99 = (round(float(v), 4) for v in np.percentile(milliseconds, (50, 95, 99)))
        return cls(tokens, len(milliseconds), round(float(np.mean(milliseconds)), 4), p50, p95, p99)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Timing:
        times = [value[k] for k in ("mean", "p50", "p95", "p99")]
        if any(type(t) not in (int, float) or not 0 <= t < float("inf") for t in times):
            raise ValueError(f"{times} are no milliseconds")
        return cls(*_sizes(value["tokens"], value["samples"]), *times)


@dataclass(frozen=True)
class BudgetCost:
    """What one budget costs.

    Attributes:
        parameters: active parameters outside the embedding and the LM head.
        decode: milliseconds per token, by context length, ascending.
        first_token: milliseconds from a prompt to its first token, by prompt length, ascending.
        weight_bytes: weights in memory: what the session keeps for itself, or what the budget reads from the mapped
            file if that is more.
        cache_bytes: bytes of KV cache per token it can hold.
    """

    parameters: int
    decode: tuple[Timing, ...]
    first_token: tuple[Timing, ...]
    weight_bytes: int
    cache_bytes: int

    def ms_per_token(self, context: int) -> float:
        """p95 of a decode step with `context` tokens in the cache, interpolated between measured lengths."""
        return interpolate([(t.tokens, t.p95) for t in self.decode], context)

    def first_token_ms(self, prompt: int) -> float:
        """p95 of the time to the first token after a prompt of that length, interpolated between measured lengths."""
        return interpolate([(t.tokens, t.p95) for t in self.first_token], prompt)

    def memory_bytes(self, context: int) -> int:
        """Bytes of weights and of the KV cache that holds `context` tokens."""
        return self.weight_bytes + self.cache_bytes * capacity_for(context)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BudgetCost:
        parameters, weight_bytes, cache_bytes = _sizes(
            *(value[k] for k in ("parameters", "weight_bytes", "cache_bytes"))
        )
        decode, first_token = (
            tuple(sorted(map(Timing.from_json, value[k]), key=lambda t: t.tokens)) for k in ("decode", "first_token")
        )
        for timings in (decode, first_token):
            if len({t.tokens for t in timings}) != len(timings):
                raise ValueError("a length occurs twice")
        return cls(parameters, decode, first_token, weight_bytes, cache_bytes)


def _sizes(*values: Any) -> tuple[int, ...]:
    if any(n < 0 for n in integers(list(values))):
        raise ValueError(f"{values} has a negative size")
    return values


def interpolate(points: Sequence[tuple[int, float]], at: int) -> float:
    """Value at a length: linear between the measured lengths, the first value below them.

    Above the longest it goes on along the line through the last two points, but never downwards: noise must not promise
    that a longer context is faster.
    """
    if not points:
        raise InputError("The latency table holds no measurement of that kind.", fix="flextron-export calibrate BUNDLE")
    if at <= points[0][0] or len(points) == 1:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if at <= x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return y1 + max(y1 - y0, 0.0) * (at - x1) / (x1 - x0)


@dataclass(frozen=True)
class LatencyTable:
    """Measurements of all budgets of a bundle on one device.

    Attributes:
        device: fingerprint, see runtime/device.py; `id` is part of the file name.
        bundle: hash of what was measured (`content_hash`); a table of other weights, graphs or budgets is not used.
        budgets: name -> cost.
        conditions: date, library versions, repeats, how a token was chosen, load average before and after: for people
            who read the numbers.
        predicted: what the numbers were computed from, if nobody measured them: such a table is made where it is shown
            and never kept.
    """

    device: dict[str, Any]
    target: str
    layout: str
    dtype: str
    bundle: str
    budgets: dict[str, BudgetCost]
    conditions: dict[str, Any] = field(default_factory=dict)
    predicted: str = ""

    @property
    def longest_context(self) -> int:
        """The largest context length measured for every budget."""
        return min((cost.decode[-1].tokens for cost in self.budgets.values() if cost.decode), default=0)

    @property
    def caution(self) -> str | None:
        """What somebody who relies on the numbers should know: the machine had no cores free for the measuring."""
        try:
            before, after = (float(v) for v in self.conditions["load_average"])
            cores, threads = int(self.device["cores"]), int(self.device["threads"])
        except MALFORMED:
            return None
        load = max(before, after - threads)  # the measuring itself is part of the load after it
        if load < cores - threads + 0.5:
            return None
        when = self.conditions.get("date")
        return (
            f"This device was measured while it was busy ({when}, load {load:.1f} on {cores} cores): times may be high."
        )

    def fits(self, bundle: Bundle) -> bool:
        """Whether it measured what the bundle holds now."""
        try:
            return self.bundle == content_hash(bundle, self.target, self.layout, self.dtype)
        except FlextronError:  # a layout that this bundle no longer has
            return False

    def path(self, bundle: Bundle) -> Path:
        """Where the table lies in a bundle."""
        return table_path(bundle, self.device["id"], self.target, self.layout, self.dtype)

    def save(self, bundle: Bundle) -> Path:
        """Write the table into the bundle, or into the user's cache if the bundle cannot be written.

        Readers see the old table or the new one.

        Raises:
            InputError, OSError: neither can be written.
        """
        path, cached = self.path(bundle), cache_path(self.path(bundle), self.bundle)
        try:
            write_json(path, self.to_json())
        except (InputError, OSError):
            write_json(cached, self.to_json())
            return cached
        with suppress(OSError):
            cached.unlink(missing_ok=True)  # it would be read first
        return path

    def to_json(self) -> dict[str, Any]:
        value = {k: getattr(self, k) for k in ("device", "target", "layout", "dtype", "bundle", "conditions")}
        budgets = {name: cost.to_json() for name, cost in self.budgets.items()}
        return {"format": FORMAT, "version": VERSION, **value, "budgets": budgets}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LatencyTable:
        """Raises one of MALFORMED for anything that is no table of this version."""
        if value["format"] != FORMAT or integers([value["version"]]) != (VERSION,):
            raise ValueError(f"{value['format']} version {value['version']} is not {FORMAT} version {VERSION}")
        budgets = {str(name): BudgetCost.from_json(cost) for name, cost in value["budgets"].items()}
        device, rest = dict(value["device"]), {k: value[k] for k in ("target", "layout", "dtype", "bundle")}
        if not all(isinstance(text, str) for text in (device["id"], *rest.values())):
            raise ValueError("a name is no text")
        return cls(device, **rest, budgets=budgets, conditions=dict(value.get("conditions") or {}))

    @classmethod
    def read(cls, path: Path) -> LatencyTable | None:
        """A table file; None if there is none or it is damaged: measuring again is the answer to either."""
        try:
            return cls.from_json(read_object(path, InputError))
        except (InputError, *MALFORMED):
            return None

    @classmethod
    def load(cls, bundle: Bundle, device: str, target: str, layout: str, dtype: str) -> LatencyTable | None:
        """The table of a device for what the bundle holds now; None if there is none or it is damaged."""
        path, content = table_path(bundle, device, target, layout, dtype), content_hash(bundle, target, layout, dtype)
        tables = (cls.read(path) for path in (cache_path(path, content), path))
        return next((table for table in tables if table is not None and table.bundle == content), None)


def table_path(bundle: Bundle, device: str, target: str, layout: str, dtype: str) -> Path:
    """Path of a table in a bundle."""
    return bundle.path / "latency" / f"{device}.{target}.{layout}.{dtype}.json"


def cache_path(path: Path, content: str) -> Path:
    """Where the table that belongs at `path` lies while the bundle cannot be written; `content` is its `bundle`."""
    return user_cache() / "latency" / f"{content[:16]}.{path.name}"


def all_tables(bundle: Bundle) -> list[LatencyTable]:
    """Every readable table in the bundle, of any device, whether or not it fits the present content."""
    tables = (LatencyTable.read(path) for path in sorted((bundle.path / "latency").glob("*.json")))
    return [table for table in tables if table is not None]


def content_hash(bundle: Bundle, target: str, layout: str, dtype: str) -> str:
    """SHA-256 over what latency depends on: weights, graphs, the engine if there is one, and budgets' widths."""
    files = list(source_hashes(bundle, layout, dtype).items())
    widths = [[b.name, [[w.groups, w.neurons] for w in b.layers]] for b in bundle.budgets]
    text = json.dumps([files, widths, plan_hashes(engine_directory(bundle.path, target, layout, dtype))])
    return hashlib.sha256(text.encode()).hexdigest()
