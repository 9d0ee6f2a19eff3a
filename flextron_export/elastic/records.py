"""Records of files, by which a damaged or altered directory is found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import integers, sha256


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of a file."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        return cls(path.stat().st_size, sha256(path))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FileRecord:
        """The inverse of `to_json`; ValueError, KeyError or TypeError if it is none."""
        (size,), digest = integers([value["bytes"]]), value["sha256"]
        if not isinstance(digest, str):
            raise ValueError(f"{digest!r} is no SHA-256")
        return cls(size, digest)


def faults(directory: Path, records: Mapping[str, FileRecord], *, hashes: bool) -> list[str]:
    """Every recorded file that is missing, of another size or (with `hashes`, which reads it whole) altered, in words.

    Args:
        records: path relative to `directory` -> what the file should be.
    """
    found = []
    for name, record in records.items():
        path = directory / name
        try:
            if not os.path.isfile(path):  # unlike Path.is_file, also false for a name that no file can have
                found.append(f"{name} is missing")
            elif (size := path.stat().st_size) != record.bytes:
                found.append(f"{name} has {size} bytes instead of {record.bytes}")
            elif hashes and sha256(path) != record.sha256:
                found.append(f"{name} was altered (its SHA-256 differs)")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            found.append(f"{name} cannot be read: {error}")
    return found
