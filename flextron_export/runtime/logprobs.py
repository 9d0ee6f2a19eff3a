"""Log-probabilities of chosen tokens and of the likeliest alternatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Logprob:
    """One chosen token.

    Attributes:
        logprob: natural logarithm of the model's probability, before temperature, penalties and filters.
        top: the likeliest tokens and theirs, best first; of equal ones the smaller first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def logprob(logits: np.ndarray, token: int, top: int) -> Logprob:
    """Of a token, and of the `top` likeliest, by float32 logits [vocab] as the model computed them."""
    values = logits.astype(np.float64)
    values -= values.max()
    total = np.log(np.exp(values).sum())
    best: np.ndarray = np.zeros(0, np.int64)
    if top:
        top = min(top, len(values))
        best = np.flatnonzero(values >= np.partition(values, -top)[-top])
        best = best[np.argsort(-values[best], kind="stable")][:top]
    return Logprob(token, float(values[token] - total), tuple((int(i), float(values[i] - total)) for i in best))
