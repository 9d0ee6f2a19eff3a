"""The latency governor: which budget runs the next token, from the times of the last ones. Pure decisions.

A machine gets busy or throttles, and what was calibrated no longer holds. The promise, 95 % of the tokens within the
limit, is kept like an account: every token earns a twentieth of a late one, every late one is paid from that. Narrowing
is quick and goes far. Widening is a purchase: it waits for a calm stretch, must be expected to hold by the latest
tokens' delays, and needs enough on the account to be taken back; each time it is, the next waits twice as long.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .table import Timing, interpolate

ALLOWED = 0.05
"""Share of tokens that a p95 promise leaves over its limit."""
WINDOW = 8
"""Latest tokens among which `LATE` late ones are no accident."""
LATE = 2
GRACE = 1.0
"""Late tokens by which the account may be overdrawn before a single late one counts as danger: nothing is earned yet
when a generation begins."""
EARNED, OWED = 8.0, 50.0
"""Most late tokens that are earned ahead, so that a long calm does not excuse a bad stretch; and most that are owed, so
that a bad one is made up for within a thousand tokens."""
CALM = 16
"""Tokens without a late one before a wider budget is tried."""
MEMORY = 32
"""Latest tokens by which it is judged whether a wider budget would hold."""
ROOM = 0.95
"""Share of the limit that a wider budget's p95, slowed down like the latest tokens, must stay within."""
LONGEST_WAIT = 16
"""Most times by which the calm stretch is lengthened."""


@dataclass(frozen=True)
class Rung:
    """A budget the governor may run.

    Attributes:
        budget: its name.
        decode: calibrated times per token, by context length.
    """

    budget: str
    decode: tuple[Timing, ...]

    def p50(self, context: int) -> float:
        """Calibrated median milliseconds per token with `context` tokens in the cache."""
        return interpolate([(t.tokens, t.p50) for t in self.decode], context)

    def p95(self, context: int) -> float:
        """Likewise the 95th percentile."""
        return interpolate([(t.tokens, t.p95) for t in self.decode], context)


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
    """Decides after every token; threads may share it, as they share the machine.

    Args:
        limit_ms: the promise: 95 % of the tokens take at most that.
        rungs: budgets, widest first; the first is where it begins, and no wider one is ever run.
        widen: whether it may widen again; the caller recomputes the wider cache then.

    Attributes:
        place: which rung is to run.
        reason: why it was changed to, for people.
        credit: late tokens that the promise leaves over; negative if it is broken.
    """

    def __init__(self, limit_ms: float, rungs: Sequence[Rung], *, widen: bool = True) -> None:
        self.limit_ms, self.rungs, self.widen = limit_ms, list(rungs), widen
        self.place, self.reason, self.credit = 0, "", 0.0
        self._seen: deque[tuple[float, float]] = deque(maxlen=MEMORY)  # milliseconds, calibrated median
        self._late: deque[bool] = deque(maxlen=WINDOW)
        self._calm = 0  # tokens since the last late one, or since the last change
        self._narrowed = WINDOW + 1  # tokens since it narrowed
        self._wait, self._trial = 1, False
        self._lock = threading.Lock()

    @property
    def rung(self) -> Rung:
        """What is to run."""
        return self.rungs[self.place]

    def observe(self, milliseconds: float, place: int, context: int, widening_ms: float = 0.0) -> None:
        """A token took that long; `place` says what is to run the next.

        Args:
            milliseconds: of the token.
            place: the rung that computed it: another thread may have changed the rung meanwhile.
            context: tokens in the cache.
            widening_ms: what recomputing the cache for a wider budget would take now, at calibrated speed.
        """
        with self._lock:
            late = milliseconds > self.limit_ms
            self.credit = min(max(self.credit + ALLOWED - late, -OWED), EARNED)
            self._seen.append((milliseconds, self.rungs[place].p50(context)))
            self._narrowed += 1
            if place < self.place:
                return  # it is known by now that this rung is too wide
            self._late.append(late)
            self._calm = 0 if late else self._calm + 1
            danger = late and (sum(self._late) >= LATE or self.credit < -GRACE)
            if danger and self.place + 1 < len(self.rungs):
                self._narrow(milliseconds, context)
            elif self._trial and self._calm >= CALM:
                self._wait, self._trial = 1, False  # widening was right
            if not danger and self.widen and self.place > 0 and self._calm >= CALM * self._wait:
                self._try_wider(context, widening_ms)

    def _narrow(self, milliseconds: float, context: int) -> None:
        """To the widest rung that holds if all are slowed down alike; if that has just proved wrong, to the last."""
        slowdown, last = max(milliseconds / self.rung.p95(context), 1.0), len(self.rungs) - 1
        fitting = (n for n in range(self.place + 1, last) if slowdown * self.rungs[n].p95(context) <= self.limit_ms)
        place = last if self._narrowed <= WINDOW else next(fitting, last)
        if self._trial:
            self._wait = min(self._wait * 2, LONGEST_WAIT)  # widening was a mistake
        self._narrowed = 0
        found = f"{sum(self._late)} of the latest {len(self._late)} tokens took more than {self.limit_ms:.4g} ms"
        self._move(place, trial=False, reason=found)

    def _try_wider(self, context: int, widening_ms: float) -> None:
        for place in range(self.place):
            # The token that waits for the recomputed cache may be late, and so may those that prove it a mistake.
            waiting = widening_ms + self.rungs[place].p95(context) > self.limit_ms
            if self.credit >= LATE + waiting and self._holds(place, context):
                found = f"calm for {self._calm} tokens, {self.credit:.1f} late ones to spare"
                self._move(place, trial=True, reason=found)
                return

    def _holds(self, place: int, context: int) -> bool:
        """Whether a wider rung would keep the promise, by what delayed the latest tokens.

        Throttling delays in proportion to the work, as the median ratio to the calibrated time tells. Other programs
        take the processor away for a while, whatever the work; a token that works longer meets them more often.
        """
        p50 = self.rungs[place].p50(context)
        slowdown = max(median(ms / usual for ms, usual in list(self._seen)[-WINDOW:]), 1.0)
        met = (p50 / usual for ms, usual in self._seen if ms - usual + p50 > self.limit_ms)
        share = sum(max(more, 1.0) for more in met) / len(self._seen)
        return slowdown * self.rungs[place].p95(context) <= ROOM * self.limit_ms and share <= ALLOWED

    def _move(self, place: int, *, trial: bool, reason: str) -> None:
        self.place, self.reason, self._trial, self._calm = place, reason, trial, 0
        self._late.clear()
