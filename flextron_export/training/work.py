"""The work directory of a run: tokens and states, until the result is written."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError
from .distribution import is_main_process

LOCK = "lock"
log = logging.getLogger(__name__)


def default_work(out: str | Path) -> Path:
    """Beside the result: on the same disk, and found by whoever looks for the result."""
    out = Path(os.path.realpath(out))
    return out.parent / f"{out.name}.work"


@contextmanager
def work_directory(path: Path, *, keep: bool) -> Iterator[Path]:
    """Yield a directory that only this run uses. Only the main process makes and removes it.

    It is removed after success, and after a failure that left no state to go on from.

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
            states = sorted(path.glob("step-*"))
            if states and isinstance(error, KeyboardInterrupt):
                log.warning("stopped; with --resume it goes on from %s", states[-1])
            if not states and not keep:
                shutil.rmtree(path, ignore_errors=True)
            raise
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(handle)


def _ours(name: str) -> bool:
    return name == LOCK or name.lstrip(".").startswith(("step-", "tokens"))
