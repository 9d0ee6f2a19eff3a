"""The latency target: what a budget must meet, and how it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

_TIME = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_SIZE = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_LIMIT = re.compile(
    r"([0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)\s*([a-z]*)\s*(?:/\s*(token|tok)|(?:ttft)?\s*@\s*([0-9]{1,9}))?"
)
_RATE = re.compile(r"([0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)\s*tok(?:ens?)?\s*/\s*s")
_HINT = (
    "write 20ms or 50tok/s (per token), 300ms@128 (first token of a 128-token prompt), 512MB (memory), or several "
    "with commas"
)


@dataclass(frozen=True)
class LatencyTarget:
    """What a budget must meet; every limit that is set must hold.

    Attributes:
        ms_per_token: milliseconds per generated token.
        first_token_ms: milliseconds from a prompt of `prompt_length` tokens to the first token.
        memory_bytes: weights and KV cache.
    """

    ms_per_token: float | None = None
    first_token_ms: float | None = None
    prompt_length: int | None = None
    memory_bytes: float | None = None

    def __post_init__(self) -> None:
        limits = (self.ms_per_token, self.first_token_ms, self.memory_bytes)
        if all(limit is None for limit in limits):
            raise InputError("The target sets no limit.", fix=_HINT)
        if any(limit is not None and not 0 < limit < float("inf") for limit in (*limits, self.prompt_length)):
            raise InputError("A target must be a positive number.", fix=_HINT)
        if (self.first_token_ms is None) != (self.prompt_length is None):
            raise InputError(
                "A time to the first token needs a prompt length, and a prompt length such a time.", fix=_HINT
            )

    @classmethod
    def parse(cls, value: str | float | LatencyTarget) -> LatencyTarget:
        """Read a target: `20ms`, `20 ms/token`, `50tok/s`, `0.5s`, `300ms@128`, `512MB`, or several with commas.

        A plain number is milliseconds per token; 50 tokens per second are at most 20 milliseconds for each.

        Raises:
            InputError: it is none of these.
        """
        if isinstance(value, LatencyTarget):
            return value
        if not isinstance(value, str):
            return cls(ms_per_token=float(value))
        limits: dict[str, Any] = {}
        for part in value.lower().split(","):
            if rate := _RATE.fullmatch(part.strip()):
                pace = float(rate[1])
                part = f"{1e3 / pace if pace else 0.0}ms"
            found = _LIMIT.fullmatch(part.strip())
            number, unit, per_token, prompt = found.groups() if found else ("", "", None, None)
            if not found or unit not in (*_TIME, *_SIZE) or (unit in _SIZE and (per_token or prompt)):
                raise InputError(
                    f"{value!r} is not a target.", cause="a missing or unknown unit" if found else None, fix=_HINT
                )
            amount = float(number)
            if unit in _SIZE:
                new: dict[str, Any] = {"memory_bytes": amount * _SIZE[unit]}
            elif prompt:
                new = {"first_token_ms": amount * _TIME[unit], "prompt_length": int(prompt)}
            else:
                new = {"ms_per_token": amount * _TIME[unit]}
            if limits.keys() & new.keys():
                raise InputError(f"{value!r} sets the same limit twice.", fix=_HINT)
            limits.update(new)
        return cls(**limits)

    @property
    def nearest(self) -> str:
        """What the budget is called that comes closest to the target."""
        if self.memory_bytes is None and None in (self.ms_per_token, self.first_token_ms):
            return "fastest"
        return "smallest" if self.ms_per_token is None and self.first_token_ms is None else "closest"

    def __str__(self) -> str:
        parts = []
        if self.ms_per_token is not None:
            parts.append(f"{milliseconds(self.ms_per_token)} per token")
        if self.first_token_ms is not None:
            first = milliseconds(self.first_token_ms)
            parts.append(f"{first} to the first token of a {self.prompt_length}-token prompt")
        if self.memory_bytes is not None:
            parts.append(f"{megabytes(self.memory_bytes)} of memory")
        return " and ".join(parts)


def milliseconds(value: float) -> str:
    """Milliseconds as text."""
    return f"{value:.4g} ms" if value < 1000 else f"{value:.0f} ms"


def megabytes(value: float) -> str:
    """Bytes as text in MB."""
    return f"{value / 1e6:.4g} MB"
