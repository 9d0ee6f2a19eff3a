"""Speculative decoding for a runner: what its settings mean for a generation."""

from __future__ import annotations

import threading

from ..elastic.widths import Budget
from ..errors import InputError
from ..targets.session import Session
from .draft_costs import drafts_of, find_draft_costs
from .drafting import Drafter, can_draft
from .generation import Advance, one_by_one
from .opening import Opening
from .sampling import Sampling
from .speculation import DraftCosts, Tuner, parse_speculative
from .timings import Drafted


class Speculator:
    """Gives every generation its way to advance.

    Args:
        opening: how the bundle runs.
        speculative: `off`; `auto`: measure once per device and draft where that is faster; or how many tokens to draft
            at a time.
        draft: the budget that drafts; by default the best as measured, for a number of tokens the narrowest.

    Raises:
        InputError, BundleError: a setting cannot be used.
    """

    def __init__(self, opening: Opening, speculative: str | int, draft: str | None) -> None:
        self.mode = parse_speculative(speculative)
        if draft is not None and self.mode == "off":
            raise InputError("A budget to draft with was given, but nothing is drafted.", fix="use --speculative auto")
        self._opening = opening
        self._draft = None if draft is None else opening.bundle.budget(draft)
        self._costs: dict[str, DraftCosts] = {}
        self._lock = threading.Lock()

    def check(self, session: Session, verifier: Budget) -> None:
        """Raise TargetError if the target cannot draft, InputError if the named budget cannot draft for this one."""
        if self.mode == "off":
            return
        session.narrowed(session.new_cache(verifier, 1, 1), verifier)
        if self._draft is not None and not can_draft(self._draft, verifier):
            raise InputError(
                f"{self._draft.name} cannot draft for {verifier.name}.",
                cause="a draft must be another budget, no wider in any layer",
                fix=f"use one of {', '.join(b.name for b in drafts_of(self._opening.bundle, verifier)) or 'no drafts'}",
            )

    def advance(self, session: Session, verifier: Budget, sampling: Sampling, drafted: Drafted) -> Advance:
        """For one generation; `drafted` is filled in as it runs."""
        if self.mode == "off":
            return one_by_one
        self.check(session, verifier)
        drafts = [self._draft] if self._draft else drafts_of(self._opening.bundle, verifier)
        if not drafts:
            drafted.reason = f"No drafts: no budget is narrower than {verifier.name} in every layer."
            return one_by_one
        if isinstance(self.mode, int):
            length, narrowest = self.mode, min(drafts, key=lambda b: b.parameters(self._opening.bundle.architecture))
            drafted.reason = f"{narrowest.name} drafting {length} at a time was asked for."
            return Drafter(narrowest, lambda tokens: length, drafted).advance
        with self._lock:
            if verifier.name not in self._costs:
                self._costs[verifier.name] = find_draft_costs(self._opening, session, verifier)
        tuner = Tuner(self._costs[verifier.name], sampling.greedy, self._draft.name if self._draft else None)
        drafted.reason = tuner.reason
        if tuner.plan is None or tuner.plan.factor <= 1:
            return one_by_one
        draft = self._opening.bundle.budget(tuner.plan.draft)
        return Drafter(draft, tuner.length, drafted, tuner.observe).advance
