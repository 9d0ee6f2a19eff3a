"""Log-likelihoods of many token sequences: batches of like length, longest first; equal inputs are read once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..elastic.widths import Budget
from ..errors import FlextronError, InputError, problems
from .subject import TOKENS_PER_CALL, Subject, filled

LARGEST_BATCH = 32


@dataclass(frozen=True)
class Request:
    """Tokens to read, and the tokens that follow the last of them.

    Attributes:
        ids: what the model reads; never empty.
        targets: the tokens after the last `len(targets)` positions of `ids`.
    """

    ids: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """float64 [targets], log-likelihood of every target in nats, and whether it is the likeliest token there."""

    log_likelihoods: np.ndarray
    greedy: np.ndarray


def score(
    subject: Subject, budget: Budget, requests: Sequence[Request], *, batch: int | None = None
) -> Iterator[tuple[int, Score]]:
    """Score requests; yield (index of the request, its score) in the order in which they are computed.

    Args:
        batch: most sequences in a call; by default as many as make `TOKENS_PER_CALL`, at most `LARGEST_BATCH`.

    Raises:
        InputError: a request is longer than the model holds, or has a token outside the vocabulary.
        FlextronError: the model computed something that is no number.
    """
    _check(subject, requests)
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, request in enumerate(requests):
        alike.setdefault(request.ids, []).append(i)
    ordered = sorted(alike, key=len, reverse=True)
    start = 0
    while start < len(ordered):
        size = batch or max(min(TOKENS_PER_CALL // len(ordered[start]), LARGEST_BATCH), 1)
        chosen = ordered[start : start + min(size, subject.max_batch or size)]
        start += len(chosen)
        yield from _score_batch(subject, budget, requests, chosen, [alike[ids] for ids in chosen])


def _score_batch(
    subject: Subject,
    budget: Budget,
    requests: Sequence[Request],
    inputs: Sequence[tuple[int, ...]],
    asking: Sequence[Sequence[int]],
) -> Iterator[tuple[int, Score]]:
    """Score the requests `asking[b]`, all of which read `inputs[b]`."""
    ids = filled(inputs)
    length = ids.shape[1]
    rows: list[int] = []
    ends = []  # of each input's rows
    for b, indices in enumerate(asking):
        first = len(inputs[b]) - max(len(requests[i].targets) for i in indices)
        rows += range(b * length + first, b * length + len(inputs[b]))
        ends.append(len(rows))
    places = [(i, end, requests[i].targets) for indices, end in zip(asking, ends, strict=True) for i in indices]
    which = np.concatenate([np.arange(end - len(targets), end) for _, end, targets in places])
    tokens = np.array([t for _, _, targets in places for t in targets], np.int64)
    found, best = subject.log_likelihoods(budget, ids, np.array(rows, np.int64), which, tokens)
    if not np.isfinite(found).all():
        raise FlextronError(
            f"Budget {budget.name} of {subject.path} computes log-likelihoods that are not finite numbers.",
            cause="its weights are damaged, or the precision is too low for them",
            fix="check it with flextron-export verify, or evaluate another precision",
        )
    greedy = best[which] == tokens
    start = 0
    for i, _, targets in places:
        stop = start + len(targets)
        yield i, Score(found[start:stop], greedy[start:stop])
        start = stop


def _check(subject: Subject, requests: Iterable[Request]) -> None:
    vocabulary, most = subject.architecture.vocab_size, subject.max_length
    found = []
    for request in requests:
        tokens = request.ids + request.targets
        if not 1 <= len(request.targets) <= len(request.ids):
            found.append(f"{len(request.targets)} targets after {len(request.ids)} tokens")
        elif len(request.ids) > most:
            found.append(f"a sequence of {len(request.ids)} tokens, but the model holds {most}")
        elif not 0 <= min(tokens) <= max(tokens) < vocabulary:
            found.append(f"token {max(tokens)} is outside the vocabulary of {vocabulary}")
    problems(InputError, "these texts cannot be scored", list(dict.fromkeys(found))[:5])
