"""What is evaluated: the budgets of an elastic checkpoint in torch, or those of a bundle on a target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from ..artefacts import open_artefact
from ..bundle.manifest import Bundle
from ..elastic.architecture import Architecture
from ..elastic.widths import Budget
from ..errors import InputError, problems
from ..runtime.capacity import capacity_for
from ..runtime.opening import How, Opening, open_bundle

if TYPE_CHECKING:
    from typing_extensions import Unpack

TOKENS_PER_CALL = 2048
"""Tokens of all sequences together that one call reads: bounds the memory of activations."""
LOGITS_PER_CALL = 1 << 26
"""Logits that one call computes, 256 MiB in float32: with a large vocabulary they outgrow the activations."""


class Continuation(Protocol):
    """Sequences that are being continued token by token, in one batch."""

    logits: np.ndarray
    """float32 [batch, vocab], after the last token of each sequence; valid until the next call."""

    def push(self, tokens: np.ndarray) -> None:
        """Append int64 [batch], one token to every sequence."""


class Subject(Protocol):
    """A model whose budgets can be scored. Not for several threads."""

    path: Path
    architecture: Architecture
    budgets: tuple[Budget, ...]
    max_length: int
    """Most tokens that a sequence may have."""
    max_batch: int | None
    """Most sequences in a call, or None."""

    def log_likelihoods(
        self, budget: Budget, ids: np.ndarray, rows: np.ndarray, which: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a batch and score tokens; logits are computed for the wanted rows only.

        Args:
            ids: int64 [B, S], shorter sequences filled up at the end with any tokens.
            rows: int64 [N], indices into the B*S flattened positions, each once.
            which: int64 [M], indices into `rows`.
            tokens: int64 [M], tokens that may follow these rows.

        Returns:
            float64 [M], log-likelihood of each token in nats, and int64 [N], the likeliest token after each row.
        """

    def continuation(self, budget: Budget, contexts: Sequence[Sequence[int]], longest: int) -> Continuation:
        """Read contexts (none empty) and be ready to continue them.

        Args:
            longest: tokens that the longest sequence will have in the end, at most `max_length`.
        """

    def about(self) -> dict[str, Any]:
        """What computes, for the record: `kind`, and target, layout and precision, or the torch device."""

    def budget(self, name: str) -> Budget:
        """The budget of that name; an error names the ones there are."""

    def close(self) -> None:
        """Release what is held."""


class Where(How, total=False):
    """Keyword arguments that say where a model is scored: as `How` for a bundle; for a checkpoint `threads` and device.

    device: torch device of a checkpoint, by default a GPU if there is one.
    """

    device: str | None


def open_subject(path: str | Path, *, hashes: bool = True, **where: Unpack[Where]) -> Subject:
    """Open a checkpoint or a bundle to be scored.

    Args:
        hashes: compare the hashes of all files.
        where: target, layout, dtype, threads, low_memory, device: see `Where`.

    Raises:
        InputError: there is nothing of that name, or an option belongs to the other kind.
        BundleError, CheckpointError, TargetError, MissingDependencyError: it cannot be opened.
    """
    opened = open_artefact(path, hashes=hashes)
    device = where.pop("device", None)
    if isinstance(opened, Bundle):
        if device is not None:
            raise InputError(
                f"{path} is a bundle: it runs on a target, not on the torch device {device!r}.",
                fix="leave --device out, or name a --target",
            )
        return BundleSubject(open_bundle(opened, **cast(How, where)))
    threads = where.pop("threads", None)
    found = [f"--{name.replace('_', '-')} {value}" for name, value in where.items() if value]
    problems(
        InputError,
        f"{path} is a checkpoint, which runs in torch; these options belong to bundles",
        found,
        fix="leave them out, or export the checkpoint and pass the bundle",
    )
    from .torch_subject import TorchSubject

    return TorchSubject(opened, device, threads)


class BundleSubject:
    """See `Subject`: a bundle on a target, through its session."""

    def __init__(self, opening: Opening) -> None:
        self.opening, bundle = opening, opening.bundle
        self.path, self.architecture = bundle.path, bundle.architecture
        self.budgets = bundle.budgets_of(opening.layout)
        self.session = opening.session()
        self.max_length = opening.max_tokens(self.session)
        self.max_batch = self.session.max_batch

    def budget(self, name: str) -> Budget:
        return self.opening.bundle.budget(name, self.opening.layout)

    def about(self) -> dict[str, Any]:
        o = self.opening
        return {"kind": "bundle", "target": o.target, "layout": o.layout, "dtype": o.dtype}

    def log_likelihoods(
        self, budget: Budget, ids: np.ndarray, rows: np.ndarray, which: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        cache = self.session.new_cache(budget, len(ids), capacity_for(ids.shape[1], self.max_length))
        scores, best = np.empty(len(which)), np.empty(len(rows), np.int64)
        place = np.empty(len(rows), np.int64)
        for here, logits in self._read(cache, ids, rows):
            most = logits.max(-1)
            total = most + np.log(np.exp(logits - most[:, None]).sum(-1, dtype=np.float64))
            place[:] = -1
            place[here] = np.arange(len(here))
            asked = np.flatnonzero(place[which] >= 0)
            row = place[which[asked]]
            scores[asked] = logits[row, tokens[asked]] - total[row]
            best[here] = logits.argmax(-1)
        return scores, best

    def continuation(self, budget: Budget, contexts: Sequence[Sequence[int]], longest: int) -> Continuation:
        return _BundleContinuation(self, budget, contexts, longest)

    def close(self) -> None:
        self.session.close()

    def _read(self, cache: Any, ids: np.ndarray, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Feed a batch into an empty cache in pieces; yield (indices into `rows`, their logits), valid until the next.

        What comes after the last wanted row is not read.
        """
        batch, length = ids.shape
        sequence, place = np.divmod(rows, length)
        most = min(TOKENS_PER_CALL, LOGITS_PER_CALL // self.architecture.vocab_size)
        piece = max(most // batch, 1)
        for start in range(0, int(place.max()) + 1, piece):
            part = np.ascontiguousarray(ids[:, start : start + piece])
            size = part.shape[1]
            here = np.flatnonzero((place >= start) & (place < start + size))
            wanted = sequence[here] * size + place[here] - start
            positions = np.tile(np.arange(start, start + size), (batch, 1))
            # A graph computes at least one row.
            logits = self.session.step(
                cache, part, positions, np.full(batch, start), wanted if len(wanted) else np.zeros(1, np.int64)
            )
            if len(here):
                yield here, logits


class _BundleContinuation:
    """See `Continuation`: contexts stand at the start of each row of the cache, so their lengths may differ."""

    def __init__(self, subject: BundleSubject, budget: Budget, contexts: Sequence[Sequence[int]], longest: int) -> None:
        self._subject = subject
        batch = len(contexts)
        self._lengths = np.array([len(c) for c in contexts], np.int64)
        self._cache = subject.session.new_cache(budget, batch, capacity_for(longest, subject.max_length))
        ids = filled(contexts)
        self.logits = np.empty((batch, subject.architecture.vocab_size), np.float32)
        rows = np.arange(batch) * ids.shape[1] + self._lengths - 1
        for here, logits in subject._read(self._cache, ids, rows):
            self.logits[here] = logits

    def push(self, tokens: np.ndarray) -> None:
        # What was read of a shorter context's filling lies beyond its length and is overwritten before it is seen.
        rows = np.arange(len(tokens))
        self.logits = self._subject.session.step(
            self._cache, tokens[:, None], self._lengths[:, None], self._lengths, rows
        )
        self._lengths = self._lengths + 1


def filled(sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """int64 [B, S]: sequences of different lengths, zeros at their ends."""
    ids = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids
