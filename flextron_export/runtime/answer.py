"""One answer as it is written: the choice of tokens, text without half characters or stop strings, why it ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .logprobs import Logprob, logprob
from .options import GenerationOptions
from .sampling import Sampler
from .stopping import StopStrings
from .tokenizer import TextStream

Choice = tuple[int, np.ndarray]
"""A token, and the float32 logits [vocab] that it was chosen from."""


class Answer:
    """The answer to one prompt, whether it is generated alone or in a batch.

    Args:
        prompt: token ids.
        options: valid ones.
        eos: ids that end the text.
        stream: turns tokens into text; None if only tokens are wanted.

    Attributes:
        tokens: ids, without the end-of-text token.
        text: what can be shown so far: never half a character or part of a stop string.
        logprobs: one per token, if they were asked for.
        stopped_by: `eos`, `stop` (a stop string), `length` (as many tokens as asked for), `context` (the cache is
            full), `cancelled`, or empty while it runs.
        count: tokens chosen, an end-of-text token included.
    """

    def __init__(
        self, prompt: Sequence[int], options: GenerationOptions, eos: frozenset[int], stream: TextStream | None
    ) -> None:
        self.tokens: list[int] = []
        self.text, self.stopped_by, self.count = "", "", 0
        self.logprobs: list[Logprob] = []
        self._options, self._eos, self._stream = options, eos, stream
        self.sampler = Sampler(options.sampling, options.seed, prompt)
        self._stops = StopStrings(options.stops)

    def choose(self, logits: np.ndarray) -> int:
        """The next token, from float32 logits [vocab]. `write` it next."""
        token = self.sampler.pick(logits)
        self.accept(token, logits)
        return token

    def accept(self, token: int, logits: np.ndarray) -> None:
        """This token was chosen, by the rules of `sampler`, from these logits. `write` it next."""
        self.sampler.record(token)
        if self._options.logprobs is not None and token not in self._eos:
            self.logprobs.append(logprob(logits, token, self._options.logprobs))

    def write(self, token: int, full: bool) -> str:
        """Append a token; return the text it makes ready. `full`: the cache has no room for another."""
        self.count += 1
        if token in self._eos:
            return self._end("eos")
        self.tokens.append(token)
        piece = ""
        if self._stream is not None:
            piece = self._stops.push(self._stream.push(token))
            self.text += piece
        if self._stops.found is not None:
            self.stopped_by = "stop"
        elif self.count >= self._options.max_new_tokens:
            piece += self._end("length")
        elif full:
            piece += self._end("context")
        return piece

    @property
    def wanted(self) -> int:
        """Most tokens that may still be chosen."""
        return self._options.max_new_tokens - self.count

    def cancel(self) -> None:
        """End it where it is."""
        self.stopped_by = self.stopped_by or "cancelled"

    def _end(self, reason: str) -> str:
        self.stopped_by = reason
        if self._stream is None:
            return ""
        rest = self._stops.push(self._stream.finish())
        if self._stops.found is not None:
            self.stopped_by = "stop"
        rest += self._stops.finish()
        self.text += rest
        return rest
