"""Which budget to run: the best one whose measured latency meets the target, and why. Pure functions, deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..elastic.router import RoutedBudget
from ..elastic.widths import Budget
from ..errors import InputError, NoBudgetFitsError
from .latency_target import LatencyTarget, megabytes, milliseconds
from .table import LatencyTable


@dataclass(frozen=True)
class Numbers:
    """What the table says about a budget at the lengths asked for; None where the target asks for no such limit.

    Attributes:
        predicted: whether the times were computed rather than measured.
    """

    ms_per_token: float | None = None
    first_token_ms: float | None = None
    memory_bytes: int | None = None
    predicted: bool = False

    def __str__(self) -> str:
        times = ((self.ms_per_token, "per token"), (self.first_token_ms, "to the first token"))
        kind = "predicted" if self.predicted else "p95"
        parts = [f"{milliseconds(time)} {what} ({kind})" for time, what in times if time is not None]
        parts += [megabytes(self.memory_bytes)] if self.memory_bytes is not None else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Rejection:
    """A budget that was not picked.

    Attributes:
        numbers: its measured numbers, None if it was not measured.
        why: one of `over-target`, `lower-quality`, `not-measured` and `other-prompts` (see `PromptRouter`).
        reason: the same as a sentence.
    """

    budget: Budget
    numbers: Numbers | None
    why: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """The budget that was picked.

    Attributes:
        reason: a sentence that says why.
        numbers: its measured numbers, None where none were needed.
        rejected: all other budgets, best quality first.
        met: whether it meets the target (False only for best effort).
        target: what it was picked for; None if it was not picked for a target.
    """

    budget: Budget
    reason: str
    numbers: Numbers | None = None
    rejected: tuple[Rejection, ...] = ()
    met: bool = True
    target: LatencyTarget | None = None

    def to_json(self) -> dict[str, Any]:
        rejected = [
            {"budget": r.budget.name, "numbers": _numbers_json(r.numbers), "why": r.why, "reason": r.reason}
            for r in self.rejected
        ]
        return {
            "budget": self.budget.name,
            "reason": self.reason,
            "numbers": _numbers_json(self.numbers),
            "met": self.met,
            "rejected": rejected,
        }


def select(
    budgets: Sequence[Budget],
    table: LatencyTable,
    target: LatencyTarget,
    *,
    context: int | None = None,
    best_effort: bool = False,
) -> Selection:
    """Pick the budget of highest quality whose measured p95 meets every limit of the target.

    Quality is the validation loss where all budgets have one, else the number of parameters.

    Args:
        budgets: what the bundle holds.
        table: what they were measured to cost here.
        target: the limits.
        context: tokens in the cache at which the target must hold; default the longest context measured.
        best_effort: if nothing fits, take the budget that comes closest instead of raising.

    Raises:
        NoBudgetFitsError: no budget meets the target; it names the one that comes closest (the fastest, for a time).
    """
    context = table.longest_context if context is None else context
    ranked = rank(budgets, table)
    measured = {b.name: _numbers(b, table, target, context) for b in ranked if b.name in table.budgets}
    if not measured:
        raise InputError("The latency table measured none of these budgets.", fix="flextron-export calibrate BUNDLE")
    where = f"at a context of {context} tokens"
    fitting = [b for b in ranked if b.name in measured and _excess(measured[b.name], target) <= 1]
    if fitting:
        picked = fitting[0]
        superlative = "best" if len(fitting) > 1 else "only"
        reason = f"{picked.name} is the {superlative} budget that meets {target}: {measured[picked.name]} {where}."
    else:
        picked = min((b for b in ranked if b.name in measured), key=lambda b: _excess(measured[b.name], target))
        reason = (
            f"No budget meets {target} {'by prediction' if table.predicted else 'on this device'} {where}; "
            f"the {target.nearest}, {picked.name}, takes {measured[picked.name]}."
        )
        if not best_effort:
            fix = "raise the target, or pass --best-effort to run that budget all the same"
            raise NoBudgetFitsError(reason, fix=fix)
        reason += " It runs as the best effort."
    rejected = tuple(_rejection(b, measured.get(b.name), picked, target) for b in ranked if b is not picked)
    return Selection(picked, reason, measured[picked.name], rejected, bool(fitting), target)


def rank(budgets: Sequence[Budget], table: LatencyTable) -> list[Budget]:
    """Budgets by quality, best first; equal ones by name, so that the order never depends on the input's.

    Of a router at several targets, which all have the parameters of the full model, the highest target comes first.
    """
    if all(b.validation_loss is not None for b in budgets):
        return sorted(budgets, key=lambda b: (b.validation_loss, b.name))
    size = {name: cost.parameters for name, cost in table.budgets.items()}

    def order(b: Budget) -> tuple[float, float, str]:
        return -size.get(b.name, 0), -b.target if isinstance(b, RoutedBudget) else 0.0, b.name

    return sorted(budgets, key=order)


def _numbers(budget: Budget, table: LatencyTable, target: LatencyTarget, context: int) -> Numbers:
    cost = table.budgets[budget.name]
    return Numbers(
        None if target.ms_per_token is None else cost.ms_per_token(context),
        None if target.prompt_length is None else cost.first_token_ms(target.prompt_length),
        None if target.memory_bytes is None else cost.memory_bytes(context),
        bool(table.predicted),
    )


def _excess(numbers: Numbers, target: LatencyTarget) -> float:
    """The largest ratio of a measured number to its limit: at most 1 if the target is met."""
    pairs = ((getattr(numbers, k), getattr(target, k)) for k in ("ms_per_token", "first_token_ms", "memory_bytes"))
    return max(value / limit for value, limit in pairs if limit is not None)


def _rejection(budget: Budget, numbers: Numbers | None, picked: Budget, target: LatencyTarget) -> Rejection:
    if numbers is None:
        return Rejection(budget, None, "not-measured", "it is not in this device's latency table")
    if _excess(numbers, target) > 1:
        return Rejection(budget, numbers, "over-target", f"{numbers} is over {target}")
    better = (
        f"a validation loss of {picked.validation_loss:.4f} instead of {budget.validation_loss:.4f}"
        if (picked.validation_loss is not None and budget.validation_loss is not None)
        else "more parameters"
    )
    return Rejection(budget, numbers, "lower-quality", f"it fits with {numbers}, but {picked.name} has {better}")


def _numbers_json(numbers: Numbers | None) -> dict[str, float | int] | None:
    # `predicted` is there only where it is true: no runtime selects by predictions.
    return None if numbers is None else {k: v for k, v in vars(numbers).items() if v is not None and v is not False}
