"""Routers: small networks that turn a latency target into widths (docs/checkpoint-format.md, docs/routers.md).

Reading and evaluating one needs NumPy only; training is in `training/`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, InputError
from .architecture import Architecture
from .safetensors import SafetensorsFile
from .widths import Budget, Candidates, full_budget

FILE = "router.safetensors"
VERSION = 1
KINDS = ("static", "dynamic", "prompt")
METHODS = ("gumbel", "surrogate")
PARTS = ("attention", "ffn")
"""The elastic parts of a layer: `attention` chooses among the candidate groups, `ffn` among the candidate neurons."""
EPSILON = 1e-12
"""Keeps `unit_rms` finite."""
SLOPE = 0.1
"""Slope of the LeakyReLU below zero."""


def encode(targets: Sequence[float], target: float) -> np.ndarray:
    """What a router reads instead of the number: float32 [len(targets)].

    A trained target is a one-hot vector; one between two trained ones blends theirs linearly (arXiv 2406.10260 has no
    interpolation; this is LLaMaFlex's), so targets that were not trained work.

    Args:
        targets: the trained ones, descending.

    Raises:
        InputError: the target is outside the trained ones.
    """
    if not targets[-1] <= target <= targets[0]:
        raise InputError(
            f"The router was trained for targets from {targets[-1]:g} to {targets[0]:g} of the full model's latency, "
            f"not for {target:g}.",
            fix="ask for one in between, or train a router with more --targets",
        )
    code = np.zeros(len(targets), np.float32)
    above = max(i for i, t in enumerate(targets) if t >= target)
    if targets[above] == target:
        code[above] = 1
    else:
        share = (target - targets[above + 1]) / (targets[above] - targets[above + 1])
        code[above], code[above + 1] = share, 1 - share
    return code


@dataclass(frozen=True)
class RoutedBudget(Budget):
    """A dynamic router at a latency target, in the place of a sub-network: its widths, those of caches too, are full.

    Attributes:
        target: latency relative to the full model.
    """

    target: float = 1.0


def unit_rms(x: np.ndarray) -> np.ndarray:
    """Vectors divided by their root mean square: the input of a prompt router, as embeddings differ in size."""
    x = x.astype(np.float32)
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + EPSILON)


@dataclass(frozen=True)
class RouterRecord:
    """What `elastic.json` says about the router in `router.safetensors`.

    Attributes:
        kind: `static` (widths from the target), `dynamic` (and from the token's hidden state, in every layer) or
            `prompt` (from the target and the mean embedding of the prompt, all layers at once).
        method: how it was trained: `gumbel` or `surrogate`.
        targets: the trained latency targets relative to the full model, descending; the first is 1.
        hidden_size: units between the two linear layers.
        candidates: what the logits are over.
        latency_model: the latency model it was trained with.
        training: settings.
        results: per target, what came out.
    """

    kind: str
    method: str
    targets: tuple[float, ...]
    hidden_size: int
    candidates: Candidates
    latency_model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    results: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "kind": self.kind,
            "method": self.method,
            "targets": list(self.targets),
            "hidden_size": self.hidden_size,
            "candidates": self.candidates.to_json(),
            "latency_model": self.latency_model,
            "training": self.training,
            "results": list(self.results),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RouterRecord:
        """The inverse of `to_json`; ValueError, KeyError, TypeError or AttributeError if it is none.

        Raises:
            CheckpointError: it is of a newer version.
        """
        version, hidden, targets = value["version"], value["hidden_size"], value["targets"]
        if type(version) is not int or version < 1:
            raise ValueError(f"the router's version is {version!r}")
        if version > VERSION:
            raise CheckpointError(
                f"The router has version {version}; this version reads up to {VERSION}.", fix="upgrade flextron-export"
            )
        if value["kind"] not in KINDS or value["method"] not in METHODS:
            raise ValueError(f"a router is {value['kind']!r}, trained by {value['method']!r}")
        if type(hidden) is not int or hidden < 1:
            raise ValueError(f"the router's hidden_size is {hidden!r}")
        if not isinstance(targets, list) or any(type(t) not in (int, float) for t in targets):
            raise ValueError(f"the router's targets are {targets!r}")
        record = cls(
            value["kind"],
            value["method"],
            tuple(float(t) for t in targets),
            hidden,
            Candidates.from_json(value["candidates"]),
            dict(value.get("latency_model") or {}),
            dict(value.get("training") or {}),
            tuple(dict(r) for r in value.get("results") or ()),
        )
        if found := target_faults(record.targets):
            raise ValueError("; ".join(found))
        return record

    def choices(self, part: str) -> tuple[int, ...]:
        """Candidate widths of a part, ascending."""
        return self.candidates.groups if part == "attention" else self.candidates.neurons

    def budgets(self, architecture: Architecture) -> tuple[RoutedBudget, ...]:
        """What a dynamic router offers to be run: itself at every trained target, `r100`, `r75` ..., widest first."""
        return tuple(self.budget(architecture, target) for target in self.targets)

    def budget(self, architecture: Architecture, target: float) -> RoutedBudget:
        """A dynamic router at a target; InputError if it lies outside the trained ones.

        It has the validation loss that was measured at this target, if it was.
        """
        encode(self.targets, target)
        losses = [r.get("validation_loss") for r in self.results if r.get("target") == target]
        layers = full_budget(architecture).layers
        return RoutedBudget(f"r{100 * target:.6g}", layers, losses[0] if losses else None, target)

    def shapes(self, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of `router.safetensors`, all float32."""
        shapes: dict[str, tuple[int, ...]] = {}

        def add(name: str, outputs: int) -> None:
            shapes[f"{name}.target"] = (self.hidden_size, len(self.targets))
            if self.kind != "static":
                shapes[f"{name}.input"] = (self.hidden_size, architecture.hidden_size)
            shapes[f"{name}.output"] = (outputs, self.hidden_size)

        if self.kind == "prompt":
            add("prompt", architecture.num_layers * sum(len(self.choices(part)) for part in PARTS))
        else:
            for layer in range(architecture.num_layers):
                for part in PARTS:
                    add(f"layers.{layer}.{part}", len(self.choices(part)))
        return shapes

    def open(self, directory: Path, architecture: Architecture) -> Router:
        """The router of a checkpoint directory; CheckpointError names every tensor that does not fit."""
        file = SafetensorsFile(directory / FILE)
        expected = self.shapes(architecture)
        found = [f"{name} is missing" for name in expected if name not in file]
        found += [f"{name} does not belong there" for name in file.tensors if name not in expected]
        for name, info in file.tensors.items():
            if name in expected and (info.shape != expected[name] or info.dtype != "F32"):
                found.append(f"{name} is {info.dtype} {list(info.shape)}, not F32 {list(expected[name])}")
        if found:
            more = [f"and {len(found) - 5} more"] if len(found) > 5 else []
            raise CheckpointError(
                f"{file.path} does not fit the router that elastic.json describes: {'; '.join(found[:5] + more)}.",
                fix="train the router again: flextron-export route",
            )
        return Router(self, {name: file[name] for name in expected})


def target_faults(targets: Sequence[float]) -> list[str]:
    """What is wrong with a list of trained targets, in words."""
    if not targets or targets[0] != 1:
        return [f"the router's targets {list(targets)} do not begin with 1, the full model"]
    if any(not b < a for a, b in itertools.pairwise(targets)) or not targets[-1] > 0:
        return [f"the router's targets {list(targets)} are not positive and descending"]
    return []


@dataclass(frozen=True)
class Router:
    """A router in NumPy: two linear layers without bias and a LeakyReLU between them."""

    record: RouterRecord
    tensors: Mapping[str, np.ndarray]

    def logits(self, name: str, target: float, x: np.ndarray | None = None) -> np.ndarray:
        """One network's output, float32 [..., outputs].

        Args:
            name: `layers.{i}.attention`, `layers.{i}.ffn` or `prompt`.
            target: latency relative to the full model.
            x: float32 [..., hidden]: the normed hidden state that the part reads (dynamic), or `unit_rms` of the mean
                embedding of the prompt (prompt).
        """
        hidden = self.tensors[f"{name}.target"] @ encode(self.record.targets, target)
        if x is not None:
            hidden = hidden + x @ self.tensors[f"{name}.input"].T
        return np.where(hidden > 0, hidden, SLOPE * hidden) @ self.tensors[f"{name}.output"].T

    def layers(self, target: float, prompt: np.ndarray | None = None) -> list[dict[str, np.ndarray]]:
        """Logits over the candidates of every part of every layer, of a static or a prompt router.

        Args:
            prompt: mean embedding of the prompt [hidden], for a prompt router.
        """
        if self.record.kind == "static":
            count = len(self.tensors) // 4  # two parts of two tensors
            return [{part: self.logits(f"layers.{i}.{part}", target) for part in PARTS} for i in range(count)]
        if self.record.kind != "prompt" or prompt is None:
            raise ValueError("only a static router, or a prompt router with a prompt, chooses for all layers at once")
        rows = self.logits("prompt", target, unit_rms(prompt)).reshape(
            -1, sum(len(self.record.choices(p)) for p in PARTS)
        )
        groups = len(self.record.candidates.groups)
        return [{"attention": row[:groups], "ffn": row[groups:]} for row in rows]
