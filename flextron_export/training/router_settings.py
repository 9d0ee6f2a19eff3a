"""How routers are trained: every number and choice, checked at once."""

from __future__ import annotations

from dataclasses import dataclass

from ..elastic.router import METHODS
from ..errors import InputError, problems
from .settings import PRECISIONS, choice_faults


@dataclass(frozen=True)
class RouterSettings:
    """How to train routers.

    Attributes:
        tokens: tokens to read; rounded up to whole steps.
        batch: sequences per step.
        length: tokens per sequence.
        method: `gumbel` or `surrogate`.
        learning_rate: of the routers (Adam); falls in a half cosine to a twentieth.
        latency_weight: weight of the relative latency loss against nats per token.
        dead_zone: how much faster than the target costs nothing, relative.
        anchor_weight: weight of the squared error that pulls every router to the full candidate at target 1.
        first_temperature, last_temperature: of the Gumbel-softmax, falling geometrically.
        first_scale, last_scale: factor of the logits, rising linearly: choices become definite.
        threshold: largest error of the surrogate, in nats, at which routers step.
        surrogate_warmup: share of the steps in which only the surrogate learns, from random choices.
        surrogate_rate: learning rate of the surrogate.
        clip: largest norm of the routers' gradient.
        precision: of the model's passes: `bf16`, `fp32` or `auto`.
        seed: of everything random.
        threads: CPU threads, or None for torch's own choice.
    """

    tokens: int
    batch: int = 16
    length: int = 128
    method: str = "gumbel"
    learning_rate: float = 1e-2
    latency_weight: float = 5.0
    dead_zone: float = 0.05
    anchor_weight: float = 10.0
    first_temperature: float = 1.0
    last_temperature: float = 0.05
    first_scale: float = 1.0
    last_scale: float = 10.0
    threshold: float = 0.1
    surrogate_warmup: float = 0.2
    surrogate_rate: float = 1e-2
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
            for name in (
                "learning_rate",
                "first_temperature",
                "last_temperature",
                "first_scale",
                "last_scale",
                "threshold",
                "surrogate_rate",
                "clip",
            )
            if not 0 < getattr(self, name) < float("inf")
        ]
        found += [
            f"{name} is {getattr(self, name)}, it must not be negative, and finite"
            for name in ("latency_weight", "anchor_weight")
            if not 0 <= getattr(self, name) < float("inf")
        ]
        found += [
            f"{name} is {getattr(self, name)}, it must be at least 0 and below 1"
            for name in ("dead_zone", "surrogate_warmup")
            if not 0 <= getattr(self, name) < 1
        ]
        found += choice_faults(self, {"method": METHODS, "precision": PRECISIONS})
        problems(InputError, "these router settings cannot be used", found)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return -(-self.tokens // (self.batch * self.length))

    @property
    def warmup_steps(self) -> int:
        """Steps in which only the surrogate learns."""
        return round(self.surrogate_warmup * self.steps)

    def scale(self, step: int) -> float:
        """Factor of the logits at a step (from 0)."""
        return self.first_scale + (self.last_scale - self.first_scale) * self._done(step)

    def temperature(self, step: int) -> float:
        """Of the Gumbel-softmax, at a step (from 0)."""
        return float(self.first_temperature * (self.last_temperature / self.first_temperature) ** self._done(step))

    def _done(self, step: int) -> float:
        return step / max(self.steps - 1, 1)
