"""How a training run goes: every number and choice, checked at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, problems
from ..targets.cores import MOST_THREADS
from .optimizer import OPTIMIZERS

LOSSES = ("distill", "ce", "mix")
PRECISIONS = ("auto", "bf16", "fp32")
LARGEST = 1e30
"""Learning rate and clip stay finite in float32 whatever they are multiplied with."""
LARGEST_SEED = 2**31 - 1
"""What every library that draws takes."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        tokens: tokens to read, counted once however many sub-networks see them; rounded up to whole steps.
        batch: sequences per step, over all processes.
        length: tokens per sequence.
        learning_rate: highest learning rate.
        loss: `ce` (the text), `distill` (the unchanged original's predictions) or `mix` (the mean of both).
        optimizer: `muon` or `adamw`.
        warmup: share of the steps over which the learning rate rises.
        weight_decay: decoupled weight decay of matrices.
        clip: largest norm of the gradient.
        precision: `bf16`, `fp32`, or `auto` (bf16 where the hardware multiplies it faster).
        seed: of everything random.
        threads: CPU threads, or None for torch's own choice.
        accumulate: parts in which each process computes its share of a batch, one after the other: less memory.
        recompute: gradient checkpointing: compute a layer again in the backward pass instead of keeping it.
        full_weight: how much the full model's loss counts against each other sub-network's of a step.
    """

    tokens: int
    batch: int = 16
    length: int = 128
    learning_rate: float = 6e-4
    loss: str = "distill"
    optimizer: str = "adamw"
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    precision: str = "auto"
    seed: int = 0
    threads: int | None = None
    accumulate: int = 1
    recompute: bool = False
    full_weight: float = 1.0

    def validate(self) -> None:
        """Raise InputError naming every bad field."""
        found = [
            f"{name} is {getattr(self, name)}, at least {least} is needed"
            for name, least in (("tokens", 0), ("batch", 1), ("length", 2), ("seed", 0), ("accumulate", 1))
            if getattr(self, name) < least
        ]
        found += [
            f"{name} is {getattr(self, name)}, it must be positive and at most {LARGEST:g}"
            for name in ("learning_rate", "clip", "full_weight")
            if not 0 < getattr(self, name) <= LARGEST
        ]
        found += [
            f"{name} is {getattr(self, name)}, it must be between 0 and 1"
            for name in ("warmup", "weight_decay")
            if not 0 <= getattr(self, name) <= 1
        ]
        found += choice_faults(self, {"loss": LOSSES, "optimizer": OPTIMIZERS, "precision": PRECISIONS})
        problems(InputError, "these training settings cannot be used", found)

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return -(-self.tokens // (self.batch * self.length))

    @property
    def warmup_steps(self) -> int:
        """Steps over which the learning rate rises, at least one."""
        return max(round(self.warmup * self.steps), 1)


def choice_faults(settings: Any, choices: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong, in words, with fields that take one of some words, and with `seed` and `threads`."""
    found = [
        f"{name} is {getattr(settings, name)!r}, it must be one of {', '.join(values)}"
        for name, values in choices.items()
        if getattr(settings, name) not in values
    ]
    if settings.seed > LARGEST_SEED:
        found.append(f"seed is {settings.seed}, at most {LARGEST_SEED} is possible")
    if settings.threads is not None and not 1 <= settings.threads <= MOST_THREADS:
        found.append(f"threads is {settings.threads}, it must be between 1 and {MOST_THREADS}")
    return found
