"""Writing that is never half done, hashes of what was written, and reading JSON that may be damaged."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import FlextronError, InputError

MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What parsing a damaged JSON file, or taking its values apart, can raise."""


def read_object(path: Path, error: type[FlextronError], fix: str | None = None) -> dict[str, Any]:
    """A JSON file that holds an object; `error` if it cannot be read or holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, *MALFORMED) as problem:
        raise error(f"{path} is damaged: {type(problem).__name__} {problem}.", fix=fix) from problem
    return value


def integers(values: Any) -> tuple[int, ...]:
    """A JSON list of integers; ValueError if it is anything else; nothing is rounded or read out of a text."""
    if not isinstance(values, list) or any(type(v) is not int for v in values):
        raise ValueError(f"{values!r} is no list of integers")
    return tuple(values)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def user_cache() -> Path:
    """Where this package keeps what it can make again, below `$XDG_CACHE_HOME` (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path(os.path.expanduser("~")) / ".cache"
    return base / "flextron-export"


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part."""
    with _explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(handle, fcntl.LOCK_EX)
                os.fchmod(handle, 0o644)  # mkstemp lets nobody else read
                file.write(content)
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
    path = _resolved(path)
    check_new_directory(path, marker=marker, overwrite=overwrite)
    with _explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.part-"))
    with _locked(temporary, wait=True):
        try:
            with _explain_os_errors(path):
                os.chmod(temporary, 0o755)
                yield temporary
                _sync(temporary)
                _swap(temporary, path, overwrite)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_new_directory(path: Path, *, marker: str, overwrite: bool = False) -> None:
    """Raise InputError if `new_directory` would not make or replace this directory: to be known before long work."""
    path = _resolved(path)
    recover(path)
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        if not (path / marker).is_file():
            raise InputError(
                f"{path} exists and was not written by this tool (it has no {marker}).", fix="choose another --out"
            )
        if not overwrite:
            raise InputError(f"{path} exists.", fix="choose another --out, or pass --overwrite")


def check_writable(path: Path, *, directory: bool = False) -> None:
    """Raise InputError if a file, or a directory of files, could not be written here: to be known before long work."""
    place = _existing(path)
    inside = place != path or directory
    reason = (
        errno.ENOTDIR
        if inside and not place.is_dir()
        else errno.EISDIR
        if not inside and place.is_dir()
        else errno.EACCES
        if not os.access(place, os.W_OK)
        else None
    )
    if reason is not None:
        raise _unwritable(path, OSError(reason, os.strerror(reason), str(place)))


def check_space(path: Path, size: int) -> None:
    """Raise InputError if that many bytes cannot be written here: to be known before long work."""
    free = shutil.disk_usage(_existing(path)).free
    if free < size:
        raise InputError(
            f"The disk is too full for {path}: {size / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free.",
            fix="free some space, or write somewhere else",
        )


def _swap(new: Path, path: Path, overwrite: bool) -> None:
    # A directory cannot be replaced in one step, so the old one is moved aside first; `recover` undoes it after a crash
    # between the two renames. Without `overwrite`, renaming fails if something has appeared there in the meantime.
    old = _aside(path)
    with _locked(path.parent, wait=True):  # other writers and `recover` wait
        if overwrite and path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            _put_back(path)
            raise
        shutil.rmtree(old, ignore_errors=True)


def recover(path: Path) -> None:
    """Put back the old directory if a process died between the two renames of `new_directory`."""
    path = _resolved(path)
    if _aside(path).is_dir() and not path.exists():
        with _locked(path.parent, wait=True):
            _put_back(path)


def _put_back(path: Path) -> None:
    if _aside(path).is_dir() and not path.exists():
        os.rename(_aside(path), path)


def _resolved(path: Path) -> Path:
    # Has a name and a parent even if `path` is `.`; and where `path` is a link, what it points to is replaced.
    return Path(os.path.realpath(path))


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


@contextmanager
def _locked(directory: Path, *, wait: bool) -> Iterator[bool]:
    """Try to hold a lock that the system releases when this process ends, however it ends; yield whether it is held."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        held = True
    except OSError:  # another process holds it, or this file system has no locks
        held = False
    try:
        yield held
    finally:
        os.close(handle)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary directories of processes that were killed while they wrote `path`."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.part-*"):
        with suppress(OSError), _locked(part, wait=False) as abandoned:
            if abandoned and any(part.iterdir()):  # an empty one may have been made this moment, and be locked next
                shutil.rmtree(part, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote the file `path`."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}"):
        with suppress(OSError), _locked(part, wait=False) as abandoned:
            if abandoned and part.is_file() and part.stat().st_size:  # an empty one may be locked next
                part.unlink()


def _sync(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            os.chmod(file, 0o644)  # safetensors lets nobody else read what it writes
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


_UNUSABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)


@contextmanager
def _explain_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FlextronError:
        raise
    except Exception as error:
        # Libraries that write on their own (safetensors) have other classes and keep only the text.
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error):
            raise InputError(
                f"The disk is full: {path} was not written, and what stood there before is unchanged.",
                cause=f"{shutil.disk_usage(_existing(path)).free / 1e6:.0f} MB are free on that disk",
                fix="free some space, or write somewhere else",
            ) from error
        if getattr(error, "errno", None) == errno.EFBIG or "os error 27" in str(error):
            raise InputError(
                f"A file is too large: {path} was not written, and what stood there before is unchanged.",
                cause="this user, or that file system, may not write files of such a size (see ulimit -f)",
                fix="raise the limit, or write somewhere else",
            ) from error
        if isinstance(error, OSError) and error.errno in _UNUSABLE and _concerns(error, path):
            raise _unwritable(path, error) from error
        raise


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be written: {error.strerror} ({error.filename}).", fix="write somewhere else")


def _concerns(error: OSError, path: Path) -> bool:
    """Whether it was writing `path` that failed (itself, a temporary beside it, a directory above it), not reading."""
    if error.filename is None:
        return True
    failed = Path(os.path.realpath(os.fsdecode(error.filename)))
    path = Path(os.path.realpath(path.parent), path.name)
    if path.is_relative_to(failed):
        return True
    beside = failed.relative_to(path.parent).parts[:1] if failed.is_relative_to(path.parent) else ()
    return beside[:1] == (path.name,) or any(name.startswith(f".{path.name}.") for name in beside)


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
