"""Perplexity of a budget on a text."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..elastic.widths import Budget
from ..errors import InputError
from ..progress import Track, silent
from ..runtime.tokenizer import Tokenizer
from ..training.sources import read_parts
from .scoring import Request, score
from .subject import Subject

LENGTH = 512
"""Tokens that a window reads by default, if the model holds as many."""
WINDOWS = 64
"""Windows that are put together before they are scored, so that calls are full and progress moves."""


@dataclass(frozen=True)
class Perplexity:
    """What a budget makes of a text.

    Attributes:
        nats: sum of the negative log-likelihoods.
        tokens: number of tokens predicted.
        bytes: UTF-8 bytes of the documents that these tokens are (ends of documents count none).
        seconds: time it took.
    """

    nats: float
    tokens: int
    bytes: float
    seconds: float

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return self.nats / math.log(2) / self.bytes


@dataclass(frozen=True)
class Text:
    """A tokenised text, cut into windows.

    Attributes:
        tokens: int32 [tokens], the documents one after the other, each followed by the end-of-text token if there is
            one.
        bytes: UTF-8 bytes of the documents.
        length: tokens that a window reads.
        stride: tokens between the starts of two windows; those that the window before has predicted are context only.
    """

    tokens: np.ndarray
    bytes: int
    length: int
    stride: int

    @classmethod
    def read(
        cls,
        files: Sequence[str | Path],
        tokenizer: Tokenizer,
        most: int,
        *,
        length: int | None = None,
        stride: int | None = None,
        limit: int | None = None,
        field: str = "text",
    ) -> Text:
        """Read and tokenise text, as far as it is used.

        Args:
            files: text files, JSONL files and data sets; see `sources.read_parts`.
            most: tokens that the model holds.
            length: tokens that a window reads, default `LENGTH` or `most`.
            stride: default `length`: windows do not overlap.
            limit: predict only that many tokens of the text, its first.
            field: of JSONL objects and data set rows.

        Raises:
            InputError: a file cannot be read, a setting makes no sense, or the text is shorter than two tokens.
        """
        length = min(LENGTH, most) if length is None else length
        stride = length if stride is None else stride
        if not 1 <= length <= most:
            raise InputError(
                f"Windows of {length} tokens cannot be read.",
                fix=f"use a --length from 1 to {most}, what the model holds",
            )
        if not 1 <= stride <= length:
            raise InputError(f"A stride of {stride} leaves tokens out.", fix=f"use a --stride from 1 to {length}")
        if limit is not None and limit < 1:
            raise InputError(f"{limit} tokens are nothing to predict.", fix="use a limit of 1 or more")
        end = sorted(tokenizer.eos)[:1]
        found: list[np.ndarray] = []
        tokens = size = 0
        document = ""
        for part, ends in read_parts(files, field):
            document += part
            if not ends:
                continue
            found.append(np.array([*tokenizer.encode(document), *end], np.int32))
            size += len(document.encode())
            tokens += len(found[-1])
            document = ""
            if limit is not None and tokens > limit:
                break
        text = np.concatenate(found)
        if limit is not None and tokens > limit + 1:
            size = round(size * (limit + 1) / tokens)
            text = text[: limit + 1]
        if len(text) < 2:
            raise InputError("The text has one token, and nothing to predict.", fix="pass a longer text")
        return cls(text, size, length, stride)

    def requests(self) -> Iterator[Request]:
        """One per window; every token but the first of the text is a target once."""
        start, predicted = 0, 1
        while predicted < len(self.tokens):
            stop = min(start + self.length, len(self.tokens) - 1)
            ids = tuple(map(int, self.tokens[start:stop]))
            yield Request(ids, tuple(map(int, self.tokens[predicted : stop + 1])))
            predicted = stop + 1
            start += self.stride

    @property
    def windows(self) -> int:
        """Number of requests."""
        return -(-max(len(self.tokens) - 1 - self.length, 0) // self.stride) + 1


def perplexity(
    subject: Subject, budget: Budget, text: Text, *, batch: int | None = None, track: Track = silent
) -> Perplexity:
    """Score a text.

    Raises:
        InputError: the text has a token that the model does not know.
        FlextronError: the model computed something that is no number.
    """
    start = time.perf_counter()
    nats, count = 0.0, 0
    requests = text.requests()
    for _ in track(range(-(-text.windows // WINDOWS)), f"{budget.name}: {len(text.tokens):,} tokens"):
        part = [request for _, request in zip(range(WINDOWS), requests, strict=False)]
        for _, found in score(subject, budget, part, batch=batch):
            nats -= float(found.log_likelihoods.sum())
            count += len(found.log_likelihoods)
    return Perplexity(nats, count, text.bytes * count / len(text.tokens), time.perf_counter() - start)
