"""The work directory of a run: tokens, states and computed losses, until the result is written."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import FlextronError, InputError
from .distribution import is_main_process
from .state import States, remove

LOCK = "lock"
JOURNAL = "losses.jsonl"
"""Losses that a search computed."""

log = logging.getLogger(__name__)


def default_work(out: str | Path) -> Path:
    """Beside the result: on the same disk, and found by whoever looks for the result."""
    out = Path(os.path.realpath(out))
    return out.parent / f"{out.name}.work"


@contextmanager
def work_directory(path: Path, *, keep: bool) -> Iterator[Path]:
    """Yield a directory that only this run uses. Only the main process makes and removes it.

    It is removed after success, and after a failure that left nothing to go on from.

    Args:
        keep: never remove it.

    Raises:
        InputError: another run uses it, it holds other files, or it cannot be made.
    """
    if not is_main_process():
        yield path
        return
    strange = sorted(p.name for p in path.iterdir() if not _ours(p.name)) if path.is_dir() else []
    if strange and not keep:
        raise InputError(f"{path} holds other files: {', '.join(strange[:3])}.", fix="move them, or pass --work")
    try:
        path.mkdir(parents=True, exist_ok=True)
        # A file of its own: the directory's lock is for the moment in which something in it is replaced.
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror}.", fix="pass another directory to --work") from error
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{path} is being used by another run.", fix="wait for it, or pass another directory to --work"
                ) from None
        try:
            yield path
        except BaseException as error:
            found = unfinished(path)
            if found and isinstance(error, KeyboardInterrupt):
                log.warning("stopped; with --resume it goes on from %s", found[-1])
            if not found and not keep:
                shutil.rmtree(path, ignore_errors=True)
            raise
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(handle)


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Within the block the result is written: if that fails, the error says how to write it from what is kept.

    Args:
        path: the work directory.
    """
    try:
        yield
    except FlextronError as error:
        if not unfinished(path):
            raise
        raise type(error)(
            error.what,
            cause=error.cause,
            fix=f"{error.fix or 'remove the cause'}; the run is kept: "
            f"the same command with --resume --work {path} writes it",
        ) from error


def unfinished(path: Path) -> list[Path]:
    """What a run left in a work directory to go on from: states, oldest first, or losses."""
    return [*States(path, every=0).all(), *path.glob(JOURNAL)]


def settle(path: Path, *, resume: bool, overwrite: bool) -> None:
    """Decide what becomes of what an unfinished run left: with `resume` it stays, with `overwrite` it goes.

    Raises:
        InputError: there is something, and neither is asked for.
    """
    if resume or not (found := unfinished(path)):
        return
    if not overwrite:
        raise InputError(
            f"{path} holds an unfinished run: {found[-1].name}.",
            fix="pass --resume to go on with it, or --overwrite to begin anew",
        )
    (path / JOURNAL).unlink(missing_ok=True)
    remove(States(path, every=0).all())


def _ours(name: str) -> bool:
    return name == LOCK or name.lstrip(".").startswith(("step-", "tokens", JOURNAL))
