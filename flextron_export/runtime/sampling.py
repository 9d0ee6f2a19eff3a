"""Choosing the next token from logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import problems


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token; higher is more random.
        top_k: choose among the k likeliest only; 0 for all.
        top_p: choose among the likeliest that together have this probability; 1 for all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def validate(self) -> None:
        """Raise InputError naming every setting that makes no sense."""
        from ..errors import InputError

        found = []
        if not 0 <= self.temperature < float("inf"):
            found.append(f"temperature {self.temperature} is not 0 or more")
        if self.top_k < 0:
            found.append(f"top-k {self.top_k} is negative")
        if not 0 < self.top_p <= 1:
            found.append(f"top-p {self.top_p} is not in (0, 1]")
        problems(InputError, "these sampling settings cannot be used", found)

    def choose(self, logits: np.ndarray, random: np.random.Generator) -> int:
        """The next token from float32 logits [vocab]; they are not changed, and not copied if temperature is 0."""
        if self.temperature == 0 or self.top_k == 1:
            return int(logits.argmax())
        tokens = None
        if 0 < self.top_k < len(logits):
            tokens = np.argpartition(logits, -self.top_k)[-self.top_k :]
            logits = logits[tokens]
        logits = logits.astype(np.float64)
        odds = np.exp((logits - logits.max()) / self.temperature)
        odds /= odds.sum()
        # Sorted also without top-p: one draw then picks the same token whatever order the partition left.
        order = np.argsort(-odds, kind="stable")
        odds = odds[order]
        if self.top_p < 1:
            count = int(np.searchsorted(odds.cumsum(), self.top_p)) + 1
            order, odds = order[:count], odds[:count]
        pick = order[min(int(np.searchsorted(odds.cumsum(), random.random() * odds.sum(), "right")), len(order) - 1)]
        return int(pick if tokens is None else tokens[pick])
