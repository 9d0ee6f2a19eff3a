"""Whether drafting pays on this device, with which budget and how many tokens at a time. Plain arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from ..files import integers

LONGEST = 8
"""Most tokens that are drafted at a time."""
PRIOR = 32
"""How many decisions of a generation weigh as much as the acceptance that was measured when calibrating."""


def parse_speculative(value: str | int) -> str | int:
    """`off`, `auto`, or how many tokens to draft at a time; InputError if it is none of these."""
    if value in ("off", "auto"):
        return value
    try:
        number = int(value)
    except ValueError:
        number = 0
    if not 1 <= number <= LONGEST or isinstance(value, bool):
        raise InputError(f"{value!r} is no way of drafting.", fix=f"use off, auto, or 1 to {LONGEST} tokens at a time")
    return number


@dataclass(frozen=True)
class DraftCost:
    """What one budget offers as a draft.

    Attributes:
        step_ms: median milliseconds to draft a token.
        greedy: share of the model's own tokens at which the likeliest token of draft and verifier is the same.
        sampled: mean probability, over the same tokens, that a token sampled by the draft is accepted.
    """

    step_ms: float
    greedy: float
    sampled: float


@dataclass(frozen=True)
class DraftCosts:
    """Measured for one verifier, all in one interleaved run.

    Attributes:
        context: tokens in the cache.
        step_ms: median milliseconds per token without drafts, the choice of the token included.
        verify_ms: median milliseconds of a verifying step, for 2, 3 ... tokens at once (one more than drafted).
        drafts: by the budget's name.
    """

    context: int
    step_ms: float
    verify_ms: tuple[float, ...]
    drafts: dict[str, DraftCost]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DraftCosts:
        """Raises one of `files.MALFORMED` for anything else."""
        drafts = {
            str(name): DraftCost(_number(d["step_ms"]), _share(d["greedy"]), _share(d["sampled"]))
            for name, d in value["drafts"].items()
        }
        (context,) = integers([value["context"]])
        return cls(context, _number(value["step_ms"]), tuple(map(_number, value["verify_ms"])), drafts)


@dataclass(frozen=True)
class Plan:
    """How to draft.

    Attributes:
        draft: the budget's name.
        length: tokens at a time.
        factor: expected tokens per millisecond, compared with no drafts.
    """

    draft: str
    length: int
    factor: float


def expected_tokens(acceptance: float, length: int) -> float:
    """Tokens per round: those accepted before the first rejection, and the one that verifying adds (Leviathan et al.
    2023, equation 1)."""
    return float(sum(acceptance**i for i in range(length + 1)))


def factor(costs: DraftCosts, draft: str, length: int, acceptance: float) -> float:
    """Expected tokens per millisecond when drafting, compared with no drafts."""
    round_ms = length * costs.drafts[draft].step_ms + costs.verify_ms[length - 1]
    return expected_tokens(acceptance, length) * costs.step_ms / round_ms


def best_plan(costs: DraftCosts, acceptance: Mapping[str, float]) -> Plan | None:
    """The fastest way to draft with one of the budgets whose acceptance is given; None if there is none."""
    plans = [
        Plan(name, length, factor(costs, name, length, share))
        for name, share in acceptance.items()
        for length in range(1, len(costs.verify_ms) + 1)
    ]
    return max(plans, key=lambda plan: plan.factor, default=None)


class Acceptance:
    """Running estimate of the probability that a drafted token is accepted.

    Args:
        measured: what calibration found; it counts as `PRIOR` decisions.
    """

    def __init__(self, measured: float) -> None:
        self._accepted, self._decided = measured * PRIOR, float(PRIOR)

    def observe(self, drafted: int, accepted: int) -> None:
        """A round: tokens after a rejected one were not decided. What lies far back counts less and less."""
        kept = PRIOR / (PRIOR + 1)
        for success in [1] * accepted + [0] * (accepted < drafted):
            self._accepted, self._decided = self._accepted * kept + success, self._decided * kept + 1

    @property
    def estimate(self) -> float:
        return self._accepted / self._decided


class Tuner:
    """Chooses how many tokens to draft in one generation, and stops drafting where it does not pay.

    Args:
        costs: measured.
        greedy: whether tokens are chosen greedily.
        draft: the only budget to draft with; by default the best.
    """

    def __init__(self, costs: DraftCosts, greedy: bool, draft: str | None = None) -> None:
        measured = {name: cost.greedy if greedy else cost.sampled for name, cost in costs.drafts.items()}
        self.plan = best_plan(costs, {name: share for name, share in measured.items() if draft in (None, name)})
        self._costs = costs
        self._acceptance = Acceptance(measured[self.plan.draft] if self.plan else 0.0)

    def length(self, tokens: int) -> int:
        """Tokens to draft in the next round; 0 if drafting would not be faster."""
        if self.plan is None:
            return 0
        plan = best_plan(self._costs, {self.plan.draft: self._acceptance.estimate})
        return plan.length if plan is not None and plan.factor > 1 else 0

    def observe(self, drafted: int, accepted: int) -> None:
        """What became of a round."""
        self._acceptance.observe(drafted, accepted)

    @property
    def reason(self) -> str:
        """What was chosen, for people."""
        if self.plan is None:
            return "No drafts: no budget of the bundle is narrower in every layer."
        how = f"{self.plan.draft} drafting {self.plan.length} at a time is expected to be {self.plan.factor:.2f}"
        how += " times as fast"
        return f"{how}." if self.plan.factor > 1 else f"No drafts: {how}, at best."


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} are no milliseconds")
    return float(value)


def _share(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no share")
    return float(value)
