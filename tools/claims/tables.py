"""Numbers of several seeds, in words and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """One number per seed.

    Attributes:
        values: nats per token, or a difference of such, in the order of the seeds.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Sample standard deviation; 0 for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    def __sub__(self, other: Spread) -> Spread:
        """Seed by seed, so that what a seed does to both cancels."""
        return Spread(tuple(a - b for a, b in zip(self.values, other.values, strict=True)))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.deviation:.3f}" if len(self.values) > 1 else f"{self.mean:.3f}"

    def signed(self) -> str:
        """As a difference."""
        return f"{self.mean:+.3f} ± {self.deviation:.3f}"


def loss_between(points: Sequence[tuple[float, float]], latency: float) -> float | None:
    """The loss that networks reach at a latency, linear between measured ones; None outside of them.

    Args:
        points: (latency, loss) of networks. One that is slower and no better than another counts as little as that one.
    """
    ordered = sorted(points)
    if not ordered or not ordered[0][0] <= latency <= ordered[-1][0]:
        return None
    losses = np.minimum.accumulate([loss for _, loss in ordered])
    return float(np.interp(latency, [x for x, _ in ordered], losses))


def verdict(difference: Spread, noise: float) -> str:
    """Whether the first of two losses is `lower`, `higher` or, within noise, `equal`.

    It is lower or higher if the mean differs by more than the noise and by more than the standard deviation over the
    seeds, and every seed agrees about the sign.
    """
    mean, values = difference.mean, difference.values
    if abs(mean) <= max(noise, difference.deviation) or len({value > 0 for value in values}) > 1:
        return "equal"
    return "lower" if mean < 0 else "higher"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column to the left and the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
