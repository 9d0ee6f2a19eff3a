"""What a generation took."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .governor import Switch
from .latency_target import LatencyTarget


@dataclass
class Drafted:
    """What became of the drafts of one generation.

    Attributes:
        budget: name of the budget that drafted; empty if none did.
        rounds: verifying steps.
        tokens: tokens drafted.
        accepted: of these, how many were accepted.
        reason: how the draft was chosen, or why there was none.
    """

    budget: str = ""
    rounds: int = 0
    tokens: int = 0
    accepted: int = 0
    reason: str = ""

    @property
    def acceptance(self) -> float | None:
        """Share of drafted tokens that were accepted; None if there were none."""
        return self.accepted / self.tokens if self.tokens else None


@dataclass
class Timings:
    """Times of one generation; the caller's own time between tokens is not counted.

    Attributes:
        prompt_tokens: length of the prompt.
        reused_tokens: of these, how many lay in the cache of an earlier generation.
        tokens: tokens generated, an end-of-text token included.
        first_token_ms: from the call to the first token, prefill included.
        token_ms: milliseconds of each further token.
        stopped_by: why it ended, see `Answer`; empty while it runs.
        target: what should have been met, or None.
        switches: every change of the budget by the governor.
        drafted: what became of drafts, if there were any; tokens that were verified together share the time.
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    tokens: int = 0
    first_token_ms: float = 0.0
    token_ms: list[float] = field(default_factory=list)
    stopped_by: str = ""
    target: LatencyTarget | None = None
    drafted: Drafted = field(default_factory=Drafted)
    switches: list[Switch] = field(default_factory=list)

    @property
    def p50(self) -> float | None:
        """Median milliseconds per token after the first; None if there were none."""
        return float(np.percentile(self.token_ms, 50)) if self.token_ms else None

    @property
    def p95(self) -> float | None:
        """95th percentile of the milliseconds per token after the first; None if there were none."""
        return float(np.percentile(self.token_ms, 95)) if self.token_ms else None

    @property
    def met(self) -> bool | None:
        """Whether this generation met the times of the target; None if it sets none that could be judged."""
        if self.target is None:
            return None
        verdicts = []
        if self.target.ms_per_token is not None and self.p95 is not None:
            verdicts.append(self.p95 <= self.target.ms_per_token)
        if self.target.first_token_ms is not None and self.prompt_tokens <= (self.target.prompt_length or 0):
            verdicts.append(self.first_token_ms <= self.target.first_token_ms)
        return all(verdicts) if verdicts else None

    def to_json(self) -> dict[str, Any]:
        kept = {
            k: getattr(self, k) for k in ("prompt_tokens", "reused_tokens", "tokens", "stopped_by", "p50", "p95", "met")
        }
        return {
            **{k: round(v, 4) if isinstance(v, float) else v for k, v in kept.items()},
            "first_token_ms": round(self.first_token_ms, 4),
            "token_ms": [round(v, 4) for v in self.token_ms],
            "target": None if self.target is None else str(self.target),
            "switches": [asdict(switch) for switch in self.switches],
            **({"drafted": asdict(self.drafted)} if self.drafted.reason else {}),
        }
