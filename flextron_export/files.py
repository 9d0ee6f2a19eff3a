"""Writing that is never half done, and hashes of what was written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new one, never a part."""
    with _explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def new_directory(path: Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it takes the place of `path`, on any failure it vanishes.

    Args:
        path: the directory to create.
        marker: a file that says "we made this directory" (for instance `manifest.json`). Only a directory that holds it
            is ever replaced, so that a mistyped `--out` cannot delete somebody's files.
        overwrite: replace an existing directory of ours.

    Raises:
        InputError: `path` exists and may not be replaced, or it cannot be written.
    """
    path = Path(os.path.abspath(path))
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not (path / marker).is_file():
            raise InputError(f"{path} exists and was not written by this tool (it has no {marker}).", fix="choose another --out")
        if not overwrite:
            raise InputError(f"{path} exists.", fix="choose another --out, or pass --overwrite")
    with _explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.part-"))
    try:
        with _explain_os_errors(path):
            os.chmod(temporary, 0o755)
            yield temporary
            _sync(temporary)
            _swap(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    # A directory cannot be replaced in one step, so the old one is moved aside first; `recover` undoes it after a crash
    # between the two renames.
    old = path.with_name(f".{path.name}.old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


def recover(path: Path) -> None:
    """Put back the old directory if a process died between the two renames of `new_directory`."""
    old = path.with_name(f".{path.name}.old")
    if old.is_dir() and not path.exists():
        os.rename(old, path)


def _sync(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


@contextmanager
def _explain_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"The disk is full: {path} was not written, and what stood there before is unchanged.",
                cause=f"{shutil.disk_usage(_existing(path)).free / 1e6:.0f} MB are free on that disk",
                fix="free some space or choose another --out",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise InputError(f"{path} cannot be written: {error.strerror}.", fix="choose another --out") from error
        raise


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
