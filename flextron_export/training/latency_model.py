"""The latency model: what a width costs in each layer, added up (docs/latency-model.md). Plain numbers, no torch.

The lookup table of Flextron (arXiv 2406.10260, Fig. 3): milliseconds by layer type and width. An intercept holds what
no width changes. It is fitted to measurements by `latency fit`, or computed from a device's data sheet by
`latency analytic`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..elastic.widths import Budget, Candidates, ascending
from ..errors import InputError, problems
from ..files import MALFORMED, integers, read_object, write_json

FORMAT = "flextron-latency-model"
VERSION = 1
PHASES = ("decode", "prefill")
SAME_FRACTION = 0.02
"""How far two candidates may lie apart, as fractions of their full widths, to count as the same step."""


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds of a sub-network: intercept + sum over layers of groups[its candidate] + neurons[its candidate].

    Attributes:
        phase: `decode` (per token with `tokens` in the cache) or `prefill` (a prompt of `tokens`).
        tokens: context or prompt length.
        intercept: ms that no width changes: embedding, norms, LM head, overhead.
        groups: ms of one layer's attention at each candidate of `candidates.groups`, ascending.
        neurons: ms of one layer's FFN at each candidate of `candidates.neurons`, ascending.
        source: how it was made: a JSON object for people.
        candidates: the widths that the entries belong to; None where nobody recorded them.
        layers: number of layers of the model it was made for; None likewise.
    """

    phase: str
    tokens: int
    intercept: float
    groups: tuple[float, ...]
    neurons: tuple[float, ...]
    source: dict[str, Any] = field(default_factory=dict)
    candidates: Candidates | None = None
    layers: int | None = None

    def predict(self, budget: Budget, candidates: Candidates) -> float:
        """Milliseconds of a budget.

        Raises:
            InputError: the candidates are not those of this model, or the budget has a width that is none.
        """
        self.check(candidates)
        try:
            return self.intercept + sum(
                self.groups[candidates.groups.index(w.groups)] + self.neurons[candidates.neurons.index(w.neurons)]
                for w in budget.layers
            )
        except ValueError as error:
            raise InputError(f"Budget {budget.name!r} has a width that is no candidate: {error}.") from error

    def full(self, layers: int) -> float:
        """Milliseconds of a model with that many layers, all at full width."""
        return self.intercept + layers * (self.groups[-1] + self.neurons[-1])

    def fastest(self, layers: int) -> float:
        """Milliseconds with every layer at its narrowest candidates: no budget is faster."""
        return self.intercept + layers * (self.groups[0] + self.neurons[0])

    def check(self, candidates: Candidates) -> None:
        """Raise InputError unless there is one entry per candidate, at the same fractions of the full widths."""
        found = []
        for kind, entries in (("groups", self.groups), ("neurons", self.neurons)):
            asked: Sequence[int] = getattr(candidates, kind)
            if len(asked) != len(entries):
                found.append(f"it has {len(entries)} entries for {kind}, there are {len(asked)} candidates")
            elif self.candidates is not None:
                own: Sequence[int] = getattr(self.candidates, kind)
                if any(abs(a / asked[-1] - b / own[-1]) > SAME_FRACTION for a, b in zip(asked, own, strict=True)):
                    found.append(f"its {kind} are {_percent(own)} of the full width, the candidates {_percent(asked)}")
        problems(
            InputError,
            "this latency model does not fit the candidate widths",
            found,
            "fit one to a bundle of this checkpoint: flextron-export latency fit BUNDLE",
        )

    def for_model(self, candidates: Candidates, layers: int) -> LatencyModel:
        """This table for a model of another depth or size: entry k costs candidate k, the same fraction of full width.

        A model of n layers gets the layer times of this model's N layers: each of its layers stands for N / n of them,
        so that attention, FFN and intercept keep their shares of the whole.

        Raises:
            InputError: the candidates are other fractions of the full widths.
        """
        self.check(candidates)
        stands_for = 1.0 if self.layers is None else self.layers / layers
        groups, neurons = (tuple(ms * stands_for for ms in entries) for entries in (self.groups, self.neurons))
        return replace(self, groups=groups, neurons=neurons, candidates=candidates, layers=layers)

    def validate(self) -> None:
        """Raise InputError naming every bad field."""
        found = [] if self.phase in PHASES else [f"phase is {self.phase!r}, it must be one of {', '.join(PHASES)}"]
        if type(self.tokens) is not int or self.tokens < 1:
            found.append(f"tokens is {self.tokens!r}, at least 1 is needed")
        if not _milliseconds(self.intercept):
            found.append(f"intercept is {self.intercept!r}, no milliseconds")
        for kind, entries in (("groups", self.groups), ("neurons", self.neurons)):
            if not entries or not all(map(_milliseconds, entries)):
                found.append(f"{kind} is {list(entries)}, no list of milliseconds")
            elif list(entries) != sorted(entries):
                found.append(f"{kind} is {list(entries)}: a wider layer must not be faster")
            if self.candidates is not None:
                widths: Sequence[int] = getattr(self.candidates, kind)
                if not ascending(widths):
                    found.append(f"its candidate {kind} {list(widths)} are not positive and ascending")
                if len(widths) != len(entries):
                    found.append(f"{kind} has {len(entries)} entries for {len(widths)} candidates")
        if self.layers is not None and (type(self.layers) is not int or self.layers < 1):
            found.append(f"layers is {self.layers!r}, at least 1 is needed")
        problems(InputError, "this latency model cannot be used", found)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "phase": self.phase,
            "tokens": self.tokens,
            "intercept": self.intercept,
            "groups": list(self.groups),
            "neurons": list(self.neurons),
            "candidates": None if self.candidates is None else self.candidates.to_json(),
            "layers": self.layers,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LatencyModel:
        """The inverse of `to_json`; one of `files.MALFORMED`, or InputError with every fault, if it is none."""
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {value['format']!r}")
        (version,) = integers([value["version"]])
        if version > VERSION:
            raise ValueError(f"it has version {version}, this flextron_export reads up to {VERSION}")
        candidates = value.get("candidates")
        model = cls(
            value["phase"],
            value["tokens"],
            value["intercept"],
            tuple(value["groups"]),
            tuple(value["neurons"]),
            dict(value.get("source") or {}),
            None if candidates is None else Candidates.from_json(candidates),
            value.get("layers"),
        )
        model.validate()
        return model

    def save(self, path: str | Path) -> None:
        """Write it as a JSON file; readers see the old one or the new one."""
        self.validate()
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> LatencyModel:
        """Read a file that `save` wrote; InputError says everything that is wrong with it."""
        path, again = Path(path), "flextron-export latency fit BUNDLE, or flextron-export latency analytic CKPT"
        if not path.is_file():
            raise InputError(f"There is no latency model {path}.", fix=again)
        value = read_object(path, InputError, again)
        try:
            return cls.from_json(value)
        except InputError as error:
            raise InputError(f"{path}: {error.what}", fix=again) from error
        except MALFORMED as error:
            raise InputError(f"{path} is no latency model: {type(error).__name__} {error}.", fix=again) from error


def _milliseconds(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _percent(widths: Sequence[int]) -> str:
    return ", ".join(f"{100 * w / widths[-1]:.0f} %" for w in widths)
