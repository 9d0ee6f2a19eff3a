"""Golden outputs: what the model computes, stored in the bundle so that any device can check itself without torch.

`golden.<dtype>.json` holds, for every budget (and every target of layout `routed`), token ids (a prompt and its greedy
continuation), the margin between the two best logits at each position, and logits at a fixed sample of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BundleError
from ..files import MALFORMED, read_object, write_json
from ..graph.contract import ROUTED
from .manifest import Bundle

FORMAT = "flextron-golden"
VERSION = 1
SAMPLED = 64
"""Vocabulary entries whose logits are stored."""


@dataclass(frozen=True)
class Reference:
    """What one budget must compute.

    Attributes:
        ids: int64 [batch, length]; from `prompt` on they are the model's own greedy choices.
        prompt: length of the prompts.
        vocabulary: int64 [V'], the entries that `logits` holds.
        logits: float32 [batch, length, V'].
        margin: float32 [batch, length], best minus second best logit at each position.
        scale: largest absolute logit; tolerances are relative to it.
        choice_margin: float32 [batch, length], best minus second best logit of a router, relative to the largest, where
            that was least up to each position; None without a router. What comes after a choice by less than rounding
            decides says nothing.
    """

    ids: np.ndarray
    prompt: int
    vocabulary: np.ndarray
    logits: np.ndarray
    margin: np.ndarray
    scale: float
    choice_margin: np.ndarray | None = None

    def counts(self, tolerance: float) -> np.ndarray:
        """bool [batch, length]: the positions up to which every choice of a router is clear."""
        return np.full(self.ids.shape, True) if self.choice_margin is None else self.choice_margin > tolerance

    def check(self, vocab_size: int) -> None:
        """Raise ValueError unless shapes and tokens fit together."""
        batch, length = self.ids.shape
        tokens = np.concatenate([self.ids.ravel(), self.vocabulary])
        if (
            self.margin.shape != (batch, length)
            or self.logits.shape != (batch, length, len(self.vocabulary))
            or not 0 < self.prompt < length
            or not self.scale > 0
            or not 0 <= tokens.min() <= tokens.max() < vocab_size
            or (self.choice_margin is not None and self.choice_margin.shape != (batch, length))
        ):
            raise ValueError("shapes or tokens do not fit together")


def golden_file(dtype: str) -> str:
    """Name of the golden file of a precision."""
    return f"golden.{dtype}.json"


def write_golden(path: Path, dtype: str, references: Mapping[str, Reference]) -> None:
    """Write the golden file of a precision (the reference is the float32 model in every precision)."""
    budgets = {}
    for name, r in references.items():
        sample = r.vocabulary[
            np.linspace(0, len(r.vocabulary) - 1, min(SAMPLED, len(r.vocabulary))).round().astype(int)
        ]
        columns = np.searchsorted(r.vocabulary, sample)
        budgets[name] = {
            "ids": r.ids.tolist(),
            "prompt": r.prompt,
            "margin": _rounded(r.margin),
            "vocabulary": sample.tolist(),
            "logits": [_rounded(sequence) for sequence in r.logits[..., columns]],
            "scale": r.scale,
            **({} if r.choice_margin is None else {"choice_margin": _rounded(r.choice_margin)}),
        }
    write_json(path, {"format": FORMAT, "version": VERSION, "dtype": dtype, "budgets": budgets})


def _rounded(rows: np.ndarray) -> list[list[float]]:
    return [[round(float(x), 5) for x in row] for row in rows]


def read_golden(bundle: Bundle, dtype: str) -> dict[str, Reference]:
    """The references stored in a bundle.

    Raises:
        BundleError: the bundle was exported without verification, or the file is damaged.
    """
    path = bundle.path / golden_file(dtype)
    if golden_file(dtype) not in bundle.files:
        raise BundleError(
            f"{bundle.path} holds no golden outputs for {dtype}.",
            cause="it was exported with --no-verify",
            fix=f"flextron-export verify {bundle.path} --checkpoint CKPT",
        )
    try:
        value = read_object(path, BundleError, "copy the bundle again")
        if (value["format"], value["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is {value['format']!r} version {value['version']!r}")
        budgets = value["budgets"]
        wanted = bundle.all_budgets if ROUTED in bundle.layouts[dtype] else bundle.budgets
        found = {
            name: Reference(
                np.array(b["ids"], np.int64),
                int(b["prompt"]),
                np.array(b["vocabulary"], np.int64),
                np.array(b["logits"], np.float32),
                np.array(b["margin"], np.float32),
                float(b["scale"]),
                np.array(b["choice_margin"], np.float32) if "choice_margin" in b else None,
            )
            for name, b in ((budget.name, budgets[budget.name]) for budget in wanted)
        }
        for reference in found.values():
            reference.check(bundle.architecture.vocab_size)
        return found
    except MALFORMED as error:
        raise BundleError(f"{path} is damaged: {type(error).__name__} {error}.", fix="copy the bundle again") from error
