"""Text for training and calibration: reading documents, and holding some out."""

from __future__ import annotations

import gzip
import lzma
import random
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import InputError

PIECES = 20
"""Pieces that a text of a single document is cut into, so that a twentieth can be held out."""

_OPEN: dict[str, Callable[..., IO[Any]]] = {".xz": lzma.open, ".gz": gzip.open}


def read_text(paths: Sequence[str | Path]) -> list[str]:
    """Return the documents of plain (.txt), .xz or .gz text files, in order.

    A document is a run of lines between blank lines; it comes without surrounding white space, with its line breaks.

    Raises:
        InputError: a file is missing, unreadable, damaged, not UTF-8 text, or has no text; or there are no paths.
    """
    if not paths:
        raise InputError("No text was given", fix="pass at least one .txt, .txt.xz or .txt.gz file")
    return [document for path in paths for document in _documents(Path(path))]


def split(documents: Sequence[str], validation_share: float = 0.05, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return (train, validation): whole documents, shuffled, the same for the same arguments.

    A single document is cut into pieces first. Equal documents count once, so that no text is on both sides. Each side
    gets at least one document. The order is random, so that the start of either side is like the rest of it.

    Args:
        validation_share: share of the documents to hold out, between 0 and 1.

    Raises:
        InputError: the share is not between 0 and 1, or there are fewer than two different documents.
    """
    if not 0 < validation_share < 1:
        raise InputError(f"The validation share is {validation_share}", fix="use a value between 0 and 1, such as 0.05")
    shuffled = list(dict.fromkeys(documents if len(documents) > 1 else _pieces(*documents)))
    if len(shuffled) < 2:
        raise InputError(
            "The text cannot be split into training and validation",
            cause="it is one document; at least two different ones are needed, and blank lines separate documents",
            fix="put blank lines between its chapters or articles, or pass more files",
        )
    random.Random(seed).shuffle(shuffled)
    held_out = min(max(1, round(validation_share * len(shuffled))), len(shuffled) - 1)
    return shuffled[held_out:], shuffled[:held_out]


def _pieces(document: str = "") -> list[str]:
    """Cut a text without blank lines into a few pieces, at ends of lines or, if it has few, of words."""
    units = document.splitlines(keepends=True)
    if len(units) < PIECES:
        units = re.findall(r"\S+\s*", document)
    size = max(-(-len(units) // PIECES), 1)
    return ["".join(units[i : i + size]).strip() for i in range(0, len(units), size)]


def _documents(path: Path) -> list[str]:
    """Return the documents of one file."""
    try:
        # -sig drops the mark that Windows editors put first.
        with _OPEN.get(path.suffix, open)(path, "rt", encoding="utf-8-sig") as file:
            text: str = file.read()
    except FileNotFoundError:
        raise InputError(f"There is no text file {path}", fix="check the path") from None
    except UnicodeDecodeError as error:
        raise _not_text(path, f"byte {error.start} is not valid UTF-8") from None
    except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{path} cannot be decompressed: {error}",
            cause="the file is damaged or incomplete, or its name does not say what it is",
            fix="copy or compress it again",
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", fix="pass a readable text file") from None
    if "\0" in text:
        raise _not_text(path, "it contains NUL characters")
    documents = [document for part in re.split(r"\n\s*\n", text) if (document := part.strip())]
    if not documents:
        raise InputError(f"{path} has no text", cause="the file is empty", fix="pass a file with running text")
    return documents


def _not_text(path: Path, cause: str) -> InputError:
    return InputError(f"{path} is not UTF-8 text", cause=cause, fix="convert the file to UTF-8, or pass a text file")
