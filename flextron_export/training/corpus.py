"""Text in memory, for small corpora: reading documents, and holding some out. `tokens` does both as a stream."""

from __future__ import annotations

import random
import re
from array import array
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .sources import PIECES, read_parts


def read_text(sources: Sequence[str | Path], field: str = "text") -> list[str]:
    """Return the documents of text files, JSONL files and data sets, in order; see `sources.read_parts`.

    Raises:
        InputError: a source is missing, unreadable, damaged, not text, or has no text; or there are none.
        MissingDependencyError: a data set is asked for, and `datasets` is not installed.
    """
    documents, begun = [], ""
    for text, ends in read_parts(sources, field):
        begun += text
        if ends:
            documents.append(begun)
            begun = ""
    return documents


def split(documents: Sequence[str], validation_share: float = 0.05, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return (train, validation): whole documents, shuffled, the same for the same arguments.

    A single document is cut into pieces first. Equal documents count once, so that no text is on both sides. Each side
    gets at least one document. The order is random, so that the start of either side is like the rest of it.

    Args:
        validation_share: share of the documents to hold out, between 0 and 1.

    Raises:
        InputError: the share is not between 0 and 1, or there are fewer than two different documents.
    """
    unique = list(dict.fromkeys(documents if len(documents) > 1 else pieces(*documents)))
    train, validation = split_order(len(unique), validation_share, seed)
    return [unique[i] for i in train], [unique[i] for i in validation]


def split_order(documents: int, validation_share: float, seed: int) -> tuple[array[int], array[int]]:
    """(train, validation) of `split` as indices of so many different documents."""
    if not 0 < validation_share < 1:
        raise InputError(f"The validation share is {validation_share}", fix="use a value between 0 and 1, such as 0.05")
    if documents < 2:
        raise InputError(
            "The text cannot be split into training and validation",
            cause="it is one document; at least two different ones are needed, and blank lines separate documents",
            fix="put blank lines between its chapters or articles, or pass more files",
        )
    shuffled = array("q", range(documents))
    random.Random(seed).shuffle(shuffled)
    held_out = min(max(1, round(validation_share * documents)), documents - 1)
    return shuffled[held_out:], shuffled[:held_out]


def pieces(document: str = "") -> list[str]:
    """Cut a text without blank lines into a few pieces, at ends of lines or, if it has few, of words."""
    units = document.splitlines(keepends=True)
    if len(units) < PIECES:
        units = re.findall(r"\S+\s*", document)
    size = max(-(-len(units) // PIECES), 1)
    return ["".join(units[i : i + size]).strip() for i in range(0, len(units), size)]
