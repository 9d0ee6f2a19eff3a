"""A path that may be an elastic checkpoint or a bundle."""

from __future__ import annotations

from pathlib import Path

from .bundle.manifest import MARKER, Bundle
from .elastic.checkpoint import ElasticCheckpoint
from .errors import InputError
from .files import recover


def open_artefact(path: str | Path, *, hashes: bool = False) -> Bundle | ElasticCheckpoint:
    """Open what is there: a bundle if it has a manifest, else an elastic checkpoint.

    Args:
        hashes: compare the SHA-256 of every recorded file, not only sizes.

    Raises:
        InputError: there is no such directory.
        BundleError, CheckpointError, UnsupportedModelError: it cannot be opened.
    """
    path = Path(path)
    recover(path)
    if not path.is_dir():
        raise InputError(f"There is no directory {path}.", fix="pass an elastic checkpoint or a bundle")
    if (path / MARKER).is_file():
        return Bundle.open(path, hashes=hashes)
    checkpoint = ElasticCheckpoint.open(path)
    if hashes:
        checkpoint.check_files()
    return checkpoint
