"""Slicing tables: which sub-networks somebody else's nested model has (docs/import.md).

A table is JSON, or CSV in the form in which Gemma 3n's slices are published: the dataset google/gemma3n-slicing-configs
on huggingface.co. MatFormer (arXiv 2310.07707) nests neurons as we do: a narrower FFN is the first of them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, problems
from ..files import MALFORMED, integers
from .architecture import Architecture
from .widths import Budget, Candidates, LayerWidth, check_budgets, full_budget

NAME, NEURONS, GROUPS, SKIPPED, HIDDEN = "name", "neurons", "groups", "skipped_layers", "hidden_size"
COLUMNS = {NAME: NAME, "ffn hidden dims": NEURONS, "kv groups": GROUPS, "layers skipped": SKIPPED}
"""Columns of a CSV table, in lower case -> what they mean; others, such as scores, are left alone."""
KEYS = (NAME, NEURONS, GROUPS, SKIPPED, HIDDEN)
"""Keys of an entry of a JSON table."""


@dataclass(frozen=True)
class Slice:
    """One row of a table.

    Attributes:
        name: as it stands there.
        neurons: of every layer that is kept.
        groups: KV groups likewise; empty: all.
        skipped: layers that are left out.
        hidden_size: None: that of the model.
    """

    name: str
    neurons: tuple[int, ...]
    groups: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()
    hidden_size: int | None = None


def read_slices(path: str | Path) -> tuple[Slice, ...]:
    """Read a table; `.json` is JSON, everything else CSV.

    Raises:
        InputError: it cannot be read; every row that makes no sense is named.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"The slicing table {path} cannot be read: {error}.") from error
    try:
        rows = _json_rows(text) if path.suffix.lower() == ".json" else _csv_rows(text)
    except MALFORMED as error:
        raise InputError(f"{path} is no slicing table: {error}.", fix="see docs/import.md for its form") from error
    found, faults = [], []
    for number, row in enumerate(rows, 1):
        try:
            found.append(_slice(row))
        except MALFORMED as error:
            faults.append(f"entry {number} ({row.get(NAME)!r}): {error}")
    problems(InputError, f"{path} is no slicing table", faults, fix="see docs/import.md for its form")
    if not found:
        raise InputError(f"{path} has no slices.")
    return tuple(found)


def budgets_of_slices(
    slices: Sequence[Slice], architecture: Architecture, names: Sequence[str] = ()
) -> tuple[Candidates, tuple[Budget, ...]]:
    """The budgets that slices are, and the widths they need as candidates; the full model comes first.

    Args:
        names: slices to take; all by default.

    Raises:
        InputError: there is no such slice, or one cannot be expressed; all of these are named, and those that can.
    """
    known = [s.name for s in slices]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"The table has no slice {unknown[0]!r}.", fix=f"use one of: {'; '.join(known)}")
    chosen = [s for s in slices if not names or s.name in names]
    reasons = {s.name: _against(s, architecture) for s in chosen}
    possible = [s.name for s in slices if not _against(s, architecture)]
    problems(
        InputError,
        "these slices cannot be expressed",
        [f"{name}: {reason}" for name, reason in reasons.items() if reason],
        fix="take the others alone: " + " ".join(f"--slice {json.dumps(n, ensure_ascii=False)}" for n in possible)
        if possible
        else None,
    )
    full = full_budget(architecture)
    budgets = {full.layers: full}
    for s in chosen:
        groups = s.groups or (architecture.num_kv_heads,) * architecture.num_layers
        layers = tuple(LayerWidth(g, n) for g, n in zip(groups, s.neurons, strict=True))
        budgets.setdefault(layers, Budget(budget_name(s.name), layers))
    widths = [width for layers in budgets for width in layers]
    candidates = Candidates(tuple(sorted({w.groups for w in widths})), tuple(sorted({w.neurons for w in widths})))
    candidates.validate(architecture)
    check_budgets(tuple(budgets.values()), candidates, architecture)
    return candidates, tuple(budgets.values())


def budget_name(name: str) -> str:
    """A slice's name as that of a budget: letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^\w.]+", "-", name, flags=re.ASCII).strip("-") or "slice"


def _against(s: Slice, a: Architecture) -> str:
    """Why a slice is no budget; empty if it is one."""
    if s.skipped:
        return f"it leaves out layers {', '.join(map(str, s.skipped))}; a budget narrows layers, it keeps all of them"
    if s.hidden_size not in (None, a.hidden_size):
        return f"its hidden size is {s.hidden_size}, the model's is {a.hidden_size}; a budget keeps all channels"
    for what, widths, full in (("neurons", s.neurons, a.intermediate_size), ("groups", s.groups, a.num_kv_heads)):
        if widths and len(widths) != a.num_layers:
            return f"it has {what} of {len(widths)} layers, the model has {a.num_layers} layers"
        if wrong := [n for n in widths if not 1 <= n <= full]:
            return f"it has {wrong[0]} {what}, the model's layers have 1 to {full}"
    return ""


def _slice(row: dict[str, Any]) -> Slice:
    name = row.get(NAME)
    if not isinstance(name, str) or not name.strip():
        raise ValueError("it has no name")
    neurons = integers(row.get(NEURONS))
    if not neurons:
        raise ValueError("it has no neurons")
    hidden = row.get(HIDDEN)
    return Slice(
        name.strip(),
        neurons,
        integers(row.get(GROUPS) or []),
        integers(row.get(SKIPPED) or []),
        None if hidden is None else integers([hidden])[0],
    )


def _json_rows(text: str) -> list[dict[str, Any]]:
    rows = json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is no list of objects")
    if unknown := sorted({key for row in rows for key in row} - set(KEYS)):
        raise ValueError(f"unknown key {unknown[0]!r} (known: {', '.join(KEYS)})")
    return rows


def _csv_rows(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    columns = {c: COLUMNS[c.strip().lower()] for c in reader.fieldnames or () if c.strip().lower() in COLUMNS}
    if missing := {NAME, NEURONS} - set(columns.values()):
        titles = {meaning: title for title, meaning in COLUMNS.items()}
        raise ValueError(f"it has no column {', '.join(repr(titles[m]) for m in sorted(missing))}")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return [
        {meaning: row[c] if meaning == NAME else _numbers(row[c]) for c, meaning in columns.items()} for row in rows
    ]


def _numbers(cell: str | None) -> Any:
    """`[2_048 * 8, 4096]`, as Python writes it, without running anything; a text that is no such list stays a text."""
    inside = re.fullmatch(r"\s*\[([\d_*,\s]*)\]\s*", cell or "")
    if inside is None:
        return [] if (cell or "").strip().lower() in ("", "null", "none", "nan") else cell
    found = []
    for part in filter(str.strip, inside[1].split(",")):
        product = 1
        for factor in part.split("*"):
            product *= int(factor)
        found.append(product)
    return found
