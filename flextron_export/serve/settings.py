"""What a server allows."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError, problems


@dataclass(frozen=True)
class ServeSettings:
    """Limits of the server; a request beyond one gets an answer that names it.

    Attributes:
        name: of the model in requests and answers; `NAME:BUDGET` is one of its budgets.
        parallel: generations at the same time. More than cores / threads makes each slower than calibrated.
        waiting: requests that may wait for a place; the next is refused with 429.
        wait_seconds: after that long in the queue a request is refused with 503.
        body_bytes: size of a request's body (413).
        body_seconds: time in which a body must have arrived (408).
        prompt_tokens: length of a prompt (400); None for what the model holds.
        new_tokens: most tokens of one answer, whatever the request asks; None for what the model holds.
        choices: answers per request, prompts times `n` (400).
        grace_seconds: when the server is told to stop, how long running answers may take to finish.
        connections: open connections at the same time; beyond it a request gets 503.
        best_effort: answer with the budget that comes closest if none meets the target, instead of refusing (400).
        api_key: clients must send it as a bearer token; None for an open server.
    """

    name: str
    parallel: int = 1
    waiting: int = 16
    wait_seconds: float = 60.0
    body_bytes: int = 1 << 20
    body_seconds: float = 20.0
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    choices: int = 8
    grace_seconds: float = 30.0
    connections: int = 512
    best_effort: bool = False
    api_key: str | None = None

    def validate(self) -> None:
        """Raise InputError naming every setting that makes no sense."""
        found = [] if self.name and ":" not in self.name else [f"the name {self.name!r} is empty or contains a colon"]
        least = {"parallel": 1, "waiting": 0, "body_bytes": 1, "choices": 1, "connections": 1}
        found += [
            f"{key} {getattr(self, key)} is below {low}" for key, low in least.items() if getattr(self, key) < low
        ]
        for key in ("wait_seconds", "body_seconds", "grace_seconds"):
            if not 0 <= getattr(self, key) < float("inf"):
                found.append(f"{key} {getattr(self, key)} is not 0 or more")
        found += [
            f"{key} {value} is below 1"
            for key in ("prompt_tokens", "new_tokens")
            if (value := getattr(self, key)) is not None and value < 1
        ]
        problems(InputError, "these settings of the server cannot be used", found)
