"""A generation under the governor: it changes the budget of a running sequence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..elastic.widths import Budget
from ..errors import InputError
from .answer import Answer, Choice
from .drafting import can_draft
from .generation import one_by_one
from .governor import Governor, Rung, Switch
from .latency_target import LatencyTarget
from .selection import Selection, rank
from .sequence import LiveSequence
from .table import LatencyTable

MODES = ("off", "narrow", "on")
log = logging.getLogger(__name__)


def ladder(budgets: Sequence[Budget], table: LatencyTable, first: Budget) -> list[Budget]:
    """Budgets to fall back to, widest first: each faster than, and no wider in any layer than, the one before."""
    found = [first]
    cost = {name: c.decode[-1].p50 for name, c in table.budgets.items() if c.decode}
    for budget in rank(budgets, table):
        if budget.name in cost and can_draft(budget, found[-1]) and cost[budget.name] < cost[found[-1].name]:
            found.append(budget)
    return found


def promised(target: LatencyTarget | None) -> float:
    """Milliseconds per token that a target sets; InputError if it sets none, as there is nothing to keep then."""
    if target is None or target.ms_per_token is None:
        raise InputError("The governor keeps a time per token, and the target sets none.", fix="add one, as in 20ms")
    return target.ms_per_token


class Governed:
    """Advances one token at a time, at the budget that the governor picks.

    Args:
        mode: `narrow` never widens again; `on` does, by computing all tokens anew at the wider budget.
        selection: of a target with a time per token.
        budgets: of the bundle.
        table: their measurements.
        context: tokens in the cache at which these are looked up.
        switches: every change is appended.
        on_switch: is called at every change.

    Raises:
        InputError: the target sets no time per token.
    """

    def __init__(
        self,
        mode: str,
        selection: Selection,
        budgets: Sequence[Budget],
        table: LatencyTable,
        context: int,
        switches: list[Switch],
        on_switch: Callable[[Switch], None] = lambda switch: None,
    ) -> None:
        promise = promised(selection.target)
        steps = ladder(budgets, table, selection.budget)
        self._budgets: Mapping[str, Budget] = {budget.name: budget for budget in steps}
        self._table, self._switches, self._on_switch = table, switches, on_switch
        rungs = []
        for budget in steps:
            cost = table.budgets[budget.name]
            nearest = min(cost.decode, key=lambda t: abs(t.tokens - context))
            rungs.append(Rung(budget.name, nearest.p50, cost.ms_per_token(context)))
        self.governor = Governor(promise, rungs, widen=mode == "on")
        self._widest = steps[0].name
        self._pending: Switch | None = None

    def advance(self, sequence: LiveSequence, answer: Answer, token: int) -> list[Choice]:
        """See `generation.Advance`."""
        start = time.perf_counter()
        if self._pending is not None:
            sequence.change(self._budgets[self._pending.after])
            self._note(replace(self._pending, cost_ms=round((time.perf_counter() - start) * 1e3, 4)))
            self._pending = None
        found = one_by_one(sequence, answer, token)
        before = self.governor.rung.budget
        widening = self._table.budgets[self._widest].first_token_ms(sequence.length)
        reason = self.governor.observe((time.perf_counter() - start) * 1e3, widening)
        if reason is not None:
            self._pending = Switch(answer.count + len(found), before, self.governor.rung.budget, reason)
        return found

    def _note(self, switch: Switch) -> None:
        self._switches.append(switch)
        log.info("%s -> %s: %s", switch.before, switch.after, switch.reason)
        self._on_switch(switch)
