"""How the generations of a runner advance: token by token, with drafts, or under the governor."""

from __future__ import annotations

from collections.abc import Callable

from ..elastic.widths import Budget
from ..errors import InputError
from .generation import Advance, one_by_one
from .governed import MODES, Governors, promised
from .governor import Switch
from .latency_target import LatencyTarget
from .measurements import Measurements
from .opening import SharedSession
from .sampling import Sampling
from .selection import Selection
from .speculator import Speculator
from .timings import Timings


class Advancing:
    """Gives every generation its way to advance.

    Args:
        session: of the bundle.
        budgets: what can be run.
        measurements: of these.
        speculative, draft, governor, on_switch: see `Runner`.

    Raises:
        InputError, BundleError: a setting cannot be used.
    """

    def __init__(
        self,
        session: SharedSession,
        budgets: tuple[Budget, ...],
        measurements: Measurements,
        *,
        speculative: str | int,
        draft: str | None,
        governor: str,
        on_switch: Callable[[Switch], None],
    ) -> None:
        self._session, self._measurements = session, measurements
        self._governor, self._governors = governor, Governors(governor, budgets, on_switch)
        self._speculator = Speculator(session.opening, speculative, draft)
        if governor not in MODES or (governor != "off" and self._speculator.mode != "off"):
            raise InputError(
                f"The governor cannot be {governor} with speculative decoding {speculative}.",
                fix=f"use one of {', '.join(MODES)}, and drafts only without a governor",
            )

    def check_target(self, target: LatencyTarget | None) -> None:
        """Raise InputError if there is a governor and the target gives it nothing to keep; measures nothing."""
        if self._governor != "off" and target is not None:
            promised(target)

    def check(self, selection: Selection) -> None:
        """Raise what keeps generations of this selection from advancing so: before the first of them begins."""
        session, budget = self._session.get(), selection.budget
        self._speculator.check(session, budget)
        if self._governor != "off":
            session.narrowed(session.new_cache(budget, 1, 1), budget)

    def of(self, selection: Selection, sampling: Sampling, timings: Timings) -> Advance:
        """The way of one generation.

        Args:
            selection: the budget that generates; with a governor, the widest.
            sampling: how tokens are chosen.
            timings: of the generation; `drafted` and `switches` are filled in as it runs.
        """
        if self._governor == "off":
            return self._speculator.advance(self._session.get(), selection.budget, sampling, timings.drafted)
        if selection.target is None or selection.target.ms_per_token is None:
            return one_by_one
        table = self._measurements.find(selection.target)
        return self._governors.governed(selection, table, timings.switches).advance
