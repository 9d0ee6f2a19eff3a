"""Widths, budgets and candidates.

A layer has two widths: the number of KV groups (a KV head with all its query heads) and the number of FFN neurons.
A budget names one width per layer. Narrower means a prefix of the wider (arXiv 2406.10260, nested elastic structure).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError, problems
from ..files import integers
from .architecture import Architecture

MINIMUM_QUERY_HEADS = 4
"""TensorRT refuses attention where batch x query heads < 4 at query length 1, so no candidate has fewer."""


@dataclass(frozen=True)
class LayerWidth:
    """Width of one layer: KV groups and FFN neurons."""

    groups: int
    neurons: int


@dataclass(frozen=True)
class Budget:
    """A sub-network: a name, one width per layer and, once measured, its validation loss in nats per token."""

    name: str
    layers: tuple[LayerWidth, ...]
    validation_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "layers": [[w.groups, w.neurons] for w in self.layers],
            "validation_loss": self.validation_loss,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Budget:
        """The inverse of `to_json`; ValueError, KeyError, TypeError or AttributeError if it is none."""
        name, loss = value["name"], value.get("validation_loss")
        if not isinstance(name, str) or not (loss is None or (isinstance(loss, (int, float)) and loss >= 0)):
            raise ValueError(f"a budget is named {name!r} and has validation loss {loss!r}")
        return cls(name, tuple(LayerWidth(*integers(pair)) for pair in value["layers"]), loss)

    def parameters(self, architecture: Architecture) -> int:
        """Number of active parameters outside the embedding and the LM head."""
        return (
            sum(architecture.layer_parameters(w.groups, w.neurons) for w in self.layers) + architecture.norm_parameters
        )


def full_budget(architecture: Architecture) -> Budget:
    """The whole model as a budget named `full`."""
    width = LayerWidth(architecture.num_kv_heads, architecture.intermediate_size)
    return Budget("full", (width,) * architecture.num_layers)


def ascending(widths: Sequence[int]) -> bool:
    """Whether there are widths, all positive, each greater than the one before."""
    return bool(widths) and list(widths) == sorted(set(widths)) and widths[0] >= 1


@dataclass(frozen=True)
class Candidates:
    """The widths a layer may take, ascending; the last is the full width."""

    groups: tuple[int, ...]
    neurons: tuple[int, ...]

    def to_json(self) -> dict[str, list[int]]:
        return {"groups": list(self.groups), "neurons": list(self.neurons)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Candidates:
        """The inverse of `to_json`; ValueError, KeyError or TypeError if it is none."""
        return cls(integers(value["groups"]), integers(value["neurons"]))

    @classmethod
    def default(cls, architecture: Architecture, fractions: Sequence[float] = (0.25, 0.5, 0.75, 1.0)) -> Candidates:
        """Fractions of the full widths; neurons in blocks of a power of two, up to 256, that divides the full width."""
        full = architecture.intermediate_size
        block = next((b for b in (256, 128, 64, 32, 16, 8, 4, 2) if full % b == 0 and full // b >= 4), 1)
        least = -(-MINIMUM_QUERY_HEADS // architecture.heads_per_group)
        groups = {
            max(round(f * architecture.num_kv_heads), min(least, architecture.num_kv_heads), 1) for f in fractions
        }
        neurons = {max(round(f * architecture.intermediate_size / block), 1) * block for f in fractions}
        return cls(
            tuple(sorted(groups | {architecture.num_kv_heads})),
            tuple(sorted(neurons | {architecture.intermediate_size})),
        )

    def validate(self, architecture: Architecture) -> None:
        """Raise InputError naming every candidate that does not fit the architecture."""
        found = []
        for name, values, full in (
            ("groups", self.groups, architecture.num_kv_heads),
            ("neurons", self.neurons, architecture.intermediate_size),
        ):
            if not ascending(values):
                found.append(f"candidate {name} {list(values)} are not positive and ascending")
            elif values[-1] != full:
                found.append(f"the last candidate of {name} is {values[-1]}, but the full width is {full}")
        heads = architecture.heads_per_group * (self.groups[0] if self.groups else 0)
        if heads < min(MINIMUM_QUERY_HEADS, architecture.num_heads):
            found.append(f"the smallest candidate keeps {heads} query heads, at least {MINIMUM_QUERY_HEADS} are needed")
        problems(InputError, "these candidate widths do not fit the model", found)

    def uniform_budgets(self, architecture: Architecture) -> tuple[Budget, ...]:
        """One budget per step of the candidates, the same in every layer, widest first.

        They are named after the percentage of parameters kept: `full`, `p75`, `p50` ...; of steps with the same
        percentage, the first is kept.
        """
        steps = max(len(self.groups), len(self.neurons))
        full = full_budget(architecture).parameters(architecture)
        budgets = {"full": full_budget(architecture)}
        for k in reversed(range(steps - 1)):
            groups, neurons = (v[round(k * (len(v) - 1) / (steps - 1))] for v in (self.groups, self.neurons))
            budget = Budget("", (LayerWidth(groups, neurons),) * architecture.num_layers)
            name = f"p{round(100 * budget.parameters(architecture) / full)}"
            budgets.setdefault(name, replace(budget, name=name))
        return tuple(budgets.values())


def check_budgets(budgets: Sequence[Budget], candidates: Candidates, architecture: Architecture) -> None:
    """Raise InputError naming every budget that is no list of one candidate width per layer under a name of its own."""
    allowed = "; ".join(f"{kind} {', '.join(map(str, widths))}" for kind, widths in candidates.to_json().items())
    found = [] if budgets else ["there is no budget"]
    names = [b.name for b in budgets]
    found += [f"the name {name!r} is used twice" for name in sorted({n for n in names if names.count(n) > 1})]
    for budget in budgets:
        if not budget.name or not all(c.isalnum() or c in "._-" for c in budget.name):
            found.append(
                f"the name {budget.name!r} is empty or has characters other than letters, digits, '.', '_' and '-'"
            )
        if len(budget.layers) != architecture.num_layers:
            found.append(
                f"budget {budget.name!r} has {len(budget.layers)} layers, the model has {architecture.num_layers}"
            )
        for i, width in enumerate(budget.layers):
            if width.groups not in candidates.groups or width.neurons not in candidates.neurons:
                found.append(
                    f"budget {budget.name!r}, layer {i}: "
                    f"{width.groups} groups, {width.neurons} neurons are not among the candidates ({allowed})"
                )
                break
    problems(InputError, "these budgets do not fit the model", found)
