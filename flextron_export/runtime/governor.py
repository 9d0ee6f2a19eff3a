"""The latency governor: which budget runs the next token, from the times of the last ones. Pure decisions.

A machine gets busy or throttles, and what was calibrated no longer holds. The governor narrows at once where the
promise is at risk, and widens late: after a calm stretch, if what it saw predicts that the wider budget keeps the
promise with room to spare. A widening that had to be taken back makes it wait twice as long before the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

ALLOWED = 0.05
"""Share of tokens that a p95 promise leaves over its limit."""
WINDOW = 8
"""Latest tokens that a decision looks at."""
LATE = 2
"""So many of them over the limit put the promise at risk: one alone may be an accident."""
SCATTERED = 3
"""So many late tokens at one budget put it at risk as well, if they are more than `ALLOWED` of its tokens."""
CALM = 48
"""Tokens without danger before a wider budget is tried."""
ROOM = 0.9
"""Share of the limit that a wider budget must be expected to stay within."""
LONGEST_WAIT = 16
"""Most times by which the calm stretch is lengthened."""


@dataclass(frozen=True)
class Rung:
    """A budget the governor may run.

    Attributes:
        budget: its name.
        p50, p95: calibrated milliseconds per token.
    """

    budget: str
    p50: float
    p95: float


@dataclass(frozen=True)
class Switch:
    """A change of the budget.

    Attributes:
        token: how many tokens had been generated.
        before, after: names of the budgets.
        reason: for people.
        cost_ms: what the change itself took; it is part of the next token's time.
    """

    token: int
    before: str
    after: str
    reason: str
    cost_ms: float = 0.0


class Governor:
    """Decides after every token.

    Args:
        limit_ms: the promise: 95 % of the tokens take at most that.
        rungs: budgets, widest first; the first is where it begins, and no wider one is ever run.
        widen: whether it may widen again; the caller recomputes the wider cache then.
    """

    def __init__(self, limit_ms: float, rungs: Sequence[Rung], *, widen: bool = True) -> None:
        self.limit_ms, self.rungs, self.widen = limit_ms, list(rungs), widen
        self.place = 0
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._tokens = self._late = self._since = 0
        self._tokens_here = self._late_here = 0
        self._wait = 1
        self._widened = False

    @property
    def rung(self) -> Rung:
        """What runs."""
        return self.rungs[self.place]

    def observe(self, milliseconds: float, widening_ms: float = 0.0) -> str | None:
        """A token took that long. Returns the reason if another budget, now `rung`, has to run the next.

        Args:
            milliseconds: of the token.
            widening_ms: what recomputing the cache for a wider budget would take now, at calibrated speed.
        """
        self._tokens += 1
        self._since += 1
        self._late += milliseconds > self.limit_ms
        self._tokens_here += 1
        self._late_here += milliseconds > self.limit_ms
        self._recent.append(milliseconds)
        late = sum(value > self.limit_ms for value in self._recent)
        scattered = self._late_here >= SCATTERED and self._late_here > ALLOWED * self._tokens_here
        if (late >= LATE or scattered) and self.place + 1 < len(self.rungs):
            return self._narrow()
        if late:
            self._since = 0
        elif self._widened and self._since >= CALM:
            self._wait, self._widened = 1, False  # it was right
        return self._try_wider(widening_ms)

    @property
    def slowdown(self) -> float:
        """How much longer the latest tokens took than calibrated; at least 1."""
        return max(median(self._recent) / self.rung.p50, 1.0) if self._recent else 1.0

    def _narrow(self) -> str:
        slowdown = max(sorted(self._recent)[-LATE:][0] / self.rung.p95, 1.0)
        fitting = (n for n in range(self.place + 1, len(self.rungs)) if slowdown * self.rungs[n].p95 <= self.limit_ms)
        if self._widened:
            self._wait = min(self._wait * 2, LONGEST_WAIT)  # widening was a mistake
        reason = f"{self._late_here} of {self._tokens_here} tokens took more than {self.limit_ms:.4g} ms"
        self._move(next(fitting, len(self.rungs) - 1), widened=False)
        return reason

    def _try_wider(self, widening_ms: float) -> str | None:
        if not self.widen or self.place == 0 or self._since < CALM * self._wait:
            return None
        if self._late > ALLOWED * self._tokens:
            return None  # the promise has to be mended first
        slowdown = self.slowdown
        fitting = [n for n in range(self.place) if slowdown * self.rungs[n].p95 <= ROOM * self.limit_ms]
        if not fitting:
            return None
        wider = self.rungs[fitting[0]]
        # The token that waits for the recomputed cache counts: it may be late only if the promise leaves one over.
        if slowdown * (widening_ms + wider.p95) > self.limit_ms and self._late + 1 > ALLOWED * (self._tokens + 1):
            return None
        reason = f"calm for {self._since} tokens; {wider.budget} is expected to take {slowdown * wider.p95:.4g} ms"
        self._move(fitting[0], widened=True)
        return reason

    def _move(self, place: int, *, widened: bool) -> None:
        self.place, self._widened, self._since = place, widened, 0
        self._tokens_here = self._late_here = 0
        self._recent.clear()
