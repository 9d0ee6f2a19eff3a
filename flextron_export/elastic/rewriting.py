"""The same checkpoint with other budgets: what a router, a search or an editor of budgets writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InputError, problems
from ..files import new_directory
from .checkpoint import KEYS, MARKER, ElasticCheckpoint
from .records import FileRecord
from .widths import Budget, check_budgets


def with_budgets(
    checkpoint: ElasticCheckpoint,
    budgets: Sequence[Budget],
    out: str | Path,
    *,
    add: Callable[[Path], None] | None = None,
    leave_out: Collection[str] = (),
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> ElasticCheckpoint:
    """Write a checkpoint that differs in its named budgets, and in files and notes that are added; atomic.

    Weights, tokenizer and every other file beside `elastic.json` are copied as they are. Where `out` is the checkpoint
    itself, it is extended in place: the files are linked, not copied, and a failure leaves the old one.

    Args:
        checkpoint: an opened checkpoint; it is not changed.
        budgets: all budgets that the new one has, `(*checkpoint.budgets, *more)` to keep the old ones.
        out: checkpoint directory to create.
        add: writes further files, such as `router.safetensors`, into the directory it is given; their size and SHA-256
            are recorded, so that a damaged one is noticed. A file of the same name is replaced.
        leave_out: names of files that the new checkpoint does not have, unless `add` writes them: old weights.
        notes: further keys of `elastic.json`, such as `{"router": {...}}`; they take the place of those of that name.
        overwrite: replace an elastic checkpoint at `out`; needed to extend one in place, too.

    Raises:
        InputError: a budget does not fit the model or has the name of another, a note has the name of a key that the
            format defines, or `out` exists or cannot be written.
        CheckpointError: what was written cannot be opened again.
    """
    out = Path(out)
    check_budgets(budgets, checkpoint.candidates, checkpoint.architecture)
    taken = [f"{name!r} is a key of {MARKER} itself" for name in notes or {} if name in KEYS]
    problems(InputError, "these notes cannot be kept", taken)
    carry = _link if out.exists() and out.samefile(checkpoint.path) else _copy
    with new_directory(out, marker=MARKER, overwrite=overwrite) as directory:
        added: dict[str, FileRecord] = {}
        if add is not None:
            add(directory)
            added = {path.name: FileRecord.of(path) for path in sorted(directory.iterdir()) if path.is_file()}
        for path in sorted(checkpoint.path.iterdir()):
            if path.is_file() and path.name not in {*added, *leave_out, MARKER}:
                carry(path, directory / path.name)
        recorded = checkpoint.files or checkpoint.weights().records()
        replace(
            checkpoint,
            budgets=tuple(budgets),
            files={**{n: r for n, r in recorded.items() if n not in leave_out}, **added},
            notes={**checkpoint.notes, **(notes or {})},
        ).write_marker(directory)
    return ElasticCheckpoint.open(out)


def _copy(source: Path, destination: Path) -> None:
    # Never a link: whoever writes a file of one checkpoint in place would change the other.
    shutil.copyfile(source, destination)


def _link(source: Path, destination: Path) -> None:
    try:
        os.link(source.resolve(), destination)
    except OSError:  # this file system has no links, or the file lies on another one
        _copy(source, destination)
