"""Speculative rejection sampling: tokens proposed from one distribution, accepted so that they follow another exactly.

Leviathan et al. 2023 (arXiv 2211.17192), algorithm 1; Chen et al. 2023 (arXiv 2302.01318), algorithm 2. Both
distributions are what the filters (temperature, top-k, top-p, min-p, penalty) leave of a model's logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .sampling import Sampling, draw


@dataclass(frozen=True)
class Distribution:
    """Over the next token.

    Attributes:
        tokens: int64, ascending, those that can be chosen; None for the whole vocabulary.
        probabilities: float64, theirs; they sum to 1.
    """

    tokens: np.ndarray | None
    probabilities: np.ndarray

    @classmethod
    def of(cls, sampling: Sampling, logits: np.ndarray, seen: np.ndarray | None = None) -> Distribution:
        """What `Sampling.choose` draws from: float32 logits [vocab], and the tokens seen, for the penalty.

        Raises:
            TargetError: a logit is not a number.
        """
        if sampling.greedy:
            token = sampling.choose(logits, _NO_RANDOM, seen)
            return cls(np.array([token]), np.ones(1))
        tokens, odds = sampling.candidates(sampling.penalised(logits, seen))
        return cls(tokens, odds / odds.sum())

    def at(self, tokens: np.ndarray) -> np.ndarray:
        """Probabilities of some tokens, 0 for those that cannot be chosen."""
        if self.tokens is None:
            return self.probabilities[tokens]
        places = np.searchsorted(self.tokens, tokens).clip(max=len(self.tokens) - 1)
        return np.where(self.tokens[places] == tokens, self.probabilities[places], 0.0)

    def draw(self, random: np.random.Generator) -> int:
        """One token; no random number is used if only one can be chosen."""
        if self.tokens is not None and len(self.tokens) == 1:
            return int(self.tokens[0])
        return draw(self.tokens, self.probabilities, random)

    def overlap(self, other: Distribution) -> float:
        """Probability that a token proposed from `other` is accepted: the sum of the smaller of both probabilities."""
        return float(np.minimum(self.probabilities, other.at(self._all())).sum())

    def beyond(self, other: Distribution) -> Distribution:
        """What is left of this where `other` proposes less than it should, to draw from after a rejection."""
        rest = np.maximum(self.probabilities - other.at(self._all()), 0.0)
        total = rest.sum()
        # Equal distributions reject nothing but by rounding.
        return Distribution(self.tokens, rest / total) if total > 0 else self

    def _all(self) -> np.ndarray:
        return np.arange(len(self.probabilities)) if self.tokens is None else self.tokens


_NO_RANDOM = np.random.default_rng(0)  # a greedy choice draws no number


def decide(verified: Distribution, proposed: Distribution, token: int, random: np.random.Generator) -> tuple[bool, int]:
    """Whether a token drawn from `proposed` is accepted, and the token to take: that one, or one drawn instead.

    The token taken follows `verified`, whatever was proposed.
    """
    one = np.array([token])
    wanted, offered = float(verified.at(one)[0]), float(proposed.at(one)[0])
    if wanted >= offered or random.random() * offered < wanted:
        return True, token
    return False, verified.beyond(proposed).draw(random)
