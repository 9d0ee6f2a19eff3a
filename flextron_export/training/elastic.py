"""Training: one loop for a plain model and for an elastic one.

An elastic step trains several sub-networks on one batch and adds up their gradients (elastic continued training, arXiv
2406.10260): always the full model and the smallest, which fixes both ends, and one drawn at random in every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.model import narrowed
from ..elastic.widths import Budget, Candidates, LayerWidth, full_budget
from ..errors import FlextronError, InputError, problems
from .data import batches
from .environment import autocast, thread_count, training_attention
from .optimizer import OPTIMIZERS, Optimizer, cosine
from .progress import training_progress

if TYPE_CHECKING:
    import torch

LOSSES = ("distill", "ce", "mix")
PRECISIONS = ("auto", "bf16", "fp32")
SNAPSHOT_EVERY = 20
"""Steps between copies of the weights, which are what is left if the loss stops being a number."""

Sampler = Callable[[np.random.Generator], Sequence[Budget]]
"""Draws the sub-networks of one step."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        tokens: tokens to read, counted once however many sub-networks see them; rounded up to whole steps.
        batch: sequences per step.
        length: tokens per sequence.
        learning_rate: highest learning rate.
        loss: `ce` (the text), `distill` (the unchanged original's predictions) or `mix` (the mean of both).
        optimizer: `muon` or `adamw`.
        warmup: share of the steps over which the learning rate rises.
        weight_decay: decoupled weight decay of matrices.
        clip: largest norm of the gradient.
        precision: `bf16`, `fp32` or `auto`.
        seed: of everything random.
        threads: CPU threads, or None for torch's own choice.
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

    def validate(self) -> None:
        """Raise InputError naming every bad field."""
        found = [
            f"{name} is {getattr(self, name)}, at least {least} is needed"
            for name, least in (("tokens", 0), ("batch", 1), ("length", 2), ("seed", 0))
            if getattr(self, name) < least
        ]
        found += [
            f"{name} is {getattr(self, name)}, it must be positive and finite"
            for name in ("learning_rate", "clip")
            if not 0 < getattr(self, name) < float("inf")
        ]
        found += [
            f"{name} is {getattr(self, name)}, it must be between 0 and 1"
            for name in ("warmup", "weight_decay")
            if not 0 <= getattr(self, name) <= 1
        ]
        for name, values in (("loss", LOSSES), ("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in values:
                found.append(f"{name} is {getattr(self, name)!r}, it must be one of {', '.join(values)}")
        if self.threads is not None and self.threads < 1:
            found.append(f"threads is {self.threads}, at least 1 is needed")
        problems(InputError, "these training settings cannot be used", found)

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return -(-self.tokens // (self.batch * self.length))


def full_only(architecture: Architecture) -> Sampler:
    """Plain training: every step trains the full model."""
    budget = full_budget(architecture)
    return lambda random: [budget]


def full_smallest_random(architecture: Architecture, candidates: Candidates) -> Sampler:
    """Elastic training: the full model, the smallest, and one whose widths are drawn independently in every layer."""
    full = full_budget(architecture)
    smallest = Budget("smallest", (LayerWidth(candidates.groups[0], candidates.neurons[0]),) * architecture.num_layers)

    def draw(random: np.random.Generator) -> Sequence[Budget]:
        groups = random.choice(candidates.groups, architecture.num_layers)
        neurons = random.choice(candidates.neurons, architecture.num_layers)
        return [
            full,
            smallest,
            Budget("random", tuple(LayerWidth(int(g), int(n)) for g, n in zip(groups, neurons, strict=True))),
        ]

    return draw


def train(
    model: Any,
    architecture: Architecture,
    tokens: np.ndarray,
    settings: TrainingSettings,
    budgets: Sampler,
    *,
    teacher: Any = None,
    progress: bool = True,
    description: str = "training",
) -> list[float]:
    """Train a Hugging Face causal LM in place.

    Args:
        model: float32 weights.
        tokens: int64, read as one text.
        budgets: draws the sub-networks of each step; see `full_only` and `full_smallest_random`.
        teacher: the frozen original, needed by the losses `distill` and `mix`.
        progress: show loss, speed and the time left on standard error.

    Returns:
        The mean loss over the sub-networks of every step, in nats per token.

    Raises:
        InputError: bad settings, or a text shorter than a sequence.
        FlextronError: the loss is no longer a finite number; the model then has its last good weights.
    """
    import torch

    settings.validate()
    if settings.loss != "ce" and teacher is None:
        raise InputError(
            f"The loss {settings.loss!r} needs a teacher.",
            fix="pass the original model as teacher, or use the loss 'ce'",
        )
    torch.manual_seed(settings.seed)
    random = np.random.default_rng(settings.seed)
    data = batches(tokens, settings.batch, settings.length, settings.seed)
    optimizer = Optimizer(model, settings.optimizer, settings.learning_rate, settings.weight_decay)
    warmup = max(round(settings.warmup * settings.steps), 1)
    losses: list[float] = []
    model.train()
    with (
        thread_count(settings.threads),
        training_attention(model, settings.length),
        training_progress(description, settings.steps, settings.batch * settings.length, progress) as report,
    ):
        good: list[torch.Tensor] = []
        for step in range(settings.steps):
            ids = torch.from_numpy(next(data)).to(model.device)
            loss = _accumulate(model, architecture, ids, budgets(random), teacher, settings)
            norm = torch.nn.utils.clip_grad_norm_(optimizer.parameters, settings.clip)
            if not (np.isfinite(loss) and torch.isfinite(norm)):
                optimizer.clear()
                if good:
                    _restore(optimizer.parameters, good)
                raise FlextronError(
                    f"Training diverged at step {step + 1} of {settings.steps}: "
                    f"the loss is {loss}, the norm of the gradient {norm:.3g}.",
                    cause=f"the learning rate {settings.learning_rate:g} is too high, or the weights were not finite",
                    fix=f"try --learning-rate {settings.learning_rate / 4:g}",
                )
            if step % SNAPSHOT_EVERY == 0:
                good = _copy(optimizer.parameters)
            optimizer.step(cosine(step, settings.steps, warmup))
            losses.append(loss)
            report(step + 1, loss)
    model.eval()
    return losses


def _accumulate(
    model: Any,
    architecture: Architecture,
    ids: torch.Tensor,
    budgets: Sequence[Budget],
    teacher: Any,
    settings: TrainingSettings,
) -> float:
    """Add the gradient of the mean loss over the sub-networks, one pass at a time; return that loss."""
    import torch

    inputs, targets = ids[:, :-1], ids[:, 1:].flatten()
    original = None
    if settings.loss != "ce":
        with torch.no_grad(), training_attention(teacher, settings.length), autocast(model.device, settings.precision):
            original = teacher(input_ids=inputs, use_cache=False).logits.flatten(0, 1).float().log_softmax(-1)
    total = 0.0
    for budget in budgets:
        with narrowed(model, architecture, budget):
            with autocast(model.device, settings.precision):
                logits = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1).float()
                loss = _loss(logits, targets, original, settings.loss) / len(budgets)
            # Still narrowed: with gradient checkpointing the backward pass runs the forward again.
            loss.backward()
        total += loss.item()
    return total


def _loss(logits: torch.Tensor, targets: torch.Tensor, original: torch.Tensor | None, kind: str) -> torch.Tensor:
    from torch.nn.functional import cross_entropy, kl_div, log_softmax

    if original is None:
        return cross_entropy(logits, targets)
    divergence = kl_div(log_softmax(logits, -1), original, reduction="batchmean", log_target=True)
    return divergence if kind == "distill" else (divergence + cross_entropy(logits, targets)) / 2


def _copy(parameters: list[Any]) -> list[Any]:
    return [p.detach().clone() for p in parameters]


def _restore(parameters: list[Any], saved: list[Any]) -> None:
    import torch

    with torch.no_grad():
        for parameter, value in zip(parameters, saved, strict=True):
            parameter.copy_(value)
