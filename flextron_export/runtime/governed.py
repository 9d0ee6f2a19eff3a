"""A generation under the governor: it changes the budget of a running sequence."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

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
FORGOTTEN_SECONDS = 10.0
"""After so long without a token, what was seen of the machine says nothing of it any more."""
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
        governor: its decisions.
        budgets: those of its rungs, in the same order.
        table: their measurements.
        switches: every change is appended.
        on_switch: is called at every change.
    """

    def __init__(
        self,
        governor: Governor,
        budgets: Sequence[Budget],
        table: LatencyTable,
        switches: list[Switch],
        on_switch: Callable[[Switch], None] = lambda switch: None,
    ) -> None:
        self.governor, self._budgets = governor, budgets
        self._widest = table.budgets[budgets[0].name]
        self._switches, self._on_switch = switches, on_switch
        self._place = 0

    def advance(self, sequence: LiveSequence, answer: Answer, token: int) -> list[Choice]:
        """See `generation.Advance`."""
        start = time.perf_counter()
        if (place := self.governor.place) != self._place:
            before, after, reason = self._budgets[self._place].name, self._budgets[place], self.governor.reason
            sequence.change(after)
            self._place, cost = place, (time.perf_counter() - start) * 1e3
            self._note(Switch(answer.count, before, after.name, reason, round(cost, 4)))
        found = one_by_one(sequence, answer, token)
        elapsed, context = (time.perf_counter() - start) * 1e3, sequence.length
        self.governor.observe(elapsed, self._place, context, self._widest.first_token_ms(context))
        return found

    def _note(self, switch: Switch) -> None:
        self._switches.append(switch)
        log.info("%s -> %s: %s", switch.before, switch.after, switch.reason)
        self._on_switch(switch)


class Governors:
    """The governors of a runner: generations of the same budget and promise share one, as they share the machine.

    So what one of them finds out, the others and the next one know. A governor that has seen nothing for a while is
    forgotten. With mode `narrow`, which has no way back, every generation has its own.

    Args:
        mode: `narrow` or `on`.
        budgets: of the bundle.
        on_switch: is called at every change.
    """

    def __init__(self, mode: str, budgets: Sequence[Budget], on_switch: Callable[[Switch], None]) -> None:
        self._mode, self._all, self._on_switch = mode, budgets, on_switch
        self._known: dict[tuple[str, float], tuple[Governor, float]] = {}
        self._lock = threading.Lock()

    def governed(self, selection: Selection, table: LatencyTable, switches: list[Switch]) -> Governed:
        """For one generation.

        Args:
            selection: of a target with a time per token.
            table: measurements of the budgets.
            switches: every change is appended.
        """
        budgets = ladder(self._all, table, selection.budget)
        key, now = (selection.budget.name, promised(selection.target)), time.monotonic()
        with self._lock:
            governor, seen = self._known.get(key, (None, 0.0))
            if governor is None or self._mode != "on" or now - seen > FORGOTTEN_SECONDS:
                rungs = [Rung(budget.name, table.budgets[budget.name].decode) for budget in budgets]
                governor = Governor(key[1], rungs, widen=self._mode == "on")
            self._known[key] = governor, now
        return Governed(governor, budgets, table, switches, self._on_switch)
