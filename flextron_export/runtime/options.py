"""What a generation can be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, problems
from .sampling import Sampling

MOST_LOGPROBS = 20


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is generated. Settings of the choice are explained in `Sampling`.

    Attributes:
        max_new_tokens: stop after that many.
        temperature: 0 for the likeliest token each time.
        top_k: choose among the k likeliest only; 0 for all.
        top_p: choose among the likeliest that together have this probability; 1 for all.
        min_p: choose among those at least this many times as likely as the likeliest; 0 for all.
        repetition_penalty: above 1, tokens that have occurred become less likely; 1 for none.
        seed: the same seed, prompt and settings give the same text; None for another each time.
        stop: strings that end the answer; they are not part of it.
        logprobs: record the log-probability of every token and of that many likeliest ones, at most 20; None for none.
        stop_on_eos: stop at the model's end-of-text token, which is not part of the text.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    logprobs: int | None = None
    stop_on_eos: bool = True

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def validate(self) -> None:
        """Raise InputError naming what cannot be used."""
        self.sampling.validate()
        found = []
        if self.max_new_tokens < 1:
            found.append(f"{self.max_new_tokens} new tokens are nothing to generate")
        if self.seed is not None and self.seed < 0:
            found.append(f"the seed {self.seed} is negative")
        if "" in self.stops:
            found.append("a stop string is empty")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            found.append(f"{self.logprobs} log-probabilities are not between 0 and {MOST_LOGPROBS}")
        problems(InputError, "these options cannot be used", found)
