"""Documents of text files, JSONL files and `datasets` data sets, read as a stream.

A long document comes in parts, so that no more than about `LONGEST` characters are ever in memory.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import InputError, MissingDependencyError
from ..files import MALFORMED

LONGEST = 1 << 20
"""Characters of the longest document that comes whole."""

PIECES = 20
"""Parts of a document that is just too long to come whole; with as many, a twentieth can be held out."""

DATASET = "dataset:"
"""What a source that is no file begins with: `dataset:DIRECTORY_OR_NAME[:SPLIT[:CONFIGURATION]]`."""

_OPEN: dict[str, Callable[..., IO[Any]]] = {".xz": lzma.open, ".gz": gzip.open}


class Part(NamedTuple):
    """A piece of a document, and whether the document ends with it."""

    text: str
    ends: bool


def read_parts(sources: Sequence[str | Path], field: str = "text") -> Iterator[Part]:
    """Yield the documents of all sources, in order, long ones in parts.

    A text file (.txt, or any other name; also .xz and .gz) has documents between blank lines. A JSONL file (.jsonl,
    .jsonl.xz, .jsonl.gz) has one in a field of every line's object. So has a row of a data set (see `DATASET`): of a
    directory made by `save_to_disk`, or of a name for `load_dataset`, which is streamed. Documents come without
    surrounding white space, empty ones not at all.

    Args:
        field: of JSONL objects and data set rows.

    Raises:
        InputError: a source is missing, unreadable, damaged, not text, or has no text; or there are none.
        MissingDependencyError: a data set is asked for, and `datasets` is not installed.
    """
    if not sources:
        raise InputError("No text was given", fix="pass at least one .txt, .txt.xz, .txt.gz or .jsonl file")
    for source in map(str, sources):
        empty = True
        for part in _read(source, field):
            empty = False
            yield part
        if empty:
            raise InputError(f"{source} has no text", cause="it is empty", fix="pass a file with running text")


def is_streamed(source: str | Path) -> bool:
    """Whether a source comes over the network, perhaps without end in sight."""
    return is_dataset(source) and not Path(_dataset_name(str(source))[0]).exists()


def is_dataset(source: str | Path) -> bool:
    """Whether a source is a data set, in a directory or by its name."""
    return str(source).startswith(DATASET)


def local_files(source: str | Path) -> list[Path]:
    """The files of a source that lie on this machine, in a fixed order; none of one that is streamed."""
    path = Path(_dataset_name(str(source))[0] if is_dataset(source) else source)
    return sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())


def _read(source: str, field: str) -> Iterator[Part]:
    if is_dataset(source):
        return _rows(source, field)
    path = Path(source)
    if ".jsonl" in path.suffixes[-2:] and path.suffix in (".jsonl", *_OPEN):
        return _lines(path, field)
    return _paragraphs(path)


def _paragraphs(path: Path) -> Iterator[Part]:
    """Runs of lines between blank lines."""
    pending, begun = "", False
    for characters in _characters(path):
        *finished, pending = re.split(r"\n\s*\n", pending + characters)
        for text in finished:
            yield from _end(text, begun)
            begun = False
        while len(pending) > LONGEST or (begun and len(pending) > LONGEST // PIECES):
            text, pending = _cut(pending if begun else pending.lstrip())
            if text:
                yield Part(text, False)
                begun = True
    yield from _end(pending, begun)


def _end(text: str, begun: bool) -> Iterator[Part]:
    text = text.rstrip() if begun else text.strip()
    if text or begun:
        yield Part(text, True)


def _cut(text: str) -> tuple[str, str]:
    """The first part of a long text, and the rest: cut before white space if there is some."""
    size = LONGEST // PIECES
    ends = [match.start() for match in re.finditer(r"\s+", text[:size]) if match.start() > size // 2]
    place = ends[-1] if ends else size
    return text[:place], text[place:]


def _document(text: str) -> Iterator[Part]:
    text = text.strip()
    if text and len(text) <= LONGEST:
        yield Part(text, True)
    elif text:
        while len(text) > LONGEST // PIECES:
            part, text = _cut(text)
            yield Part(part, False)
        yield Part(text, True)


def _characters(path: Path) -> Iterator[str]:
    """The text of a file in blocks, with `\\n` as the only line end."""
    # -sig drops the mark that Windows editors put first.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    seen, more = 0, True
    with _opened(path) as file:
        while more:
            block = file.read(LONGEST)
            seen, more = seen + len(block), bool(block)
            try:
                text = decoder.decode(block, final=not more)
            except UnicodeDecodeError as error:
                place = seen - len(error.object) + error.start
                raise _not_text(path, f"byte {place} is not valid UTF-8") from None
            if "\0" in text:
                raise _not_text(path, "it contains NUL characters")
            yield text


def _lines(path: Path, field: str) -> Iterator[Part]:
    """The objects of a JSONL file."""
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except MALFORMED as error:
                raise InputError(
                    f"{path}, line {number} is not JSON: {error}",
                    cause="the line is damaged, or the file has another format",
                    fix="correct or remove the line; every line must hold one JSON object",
                ) from None
            if not isinstance(value, dict):
                raise InputError(
                    f"{path}, line {number} is not a JSON object", fix='write lines such as {"text": "..."}'
                )
            yield from _document(_text_of(value, field, f"{path}, line {number}"))


def _text_of(value: dict[str, Any], field: str, place: str) -> str:
    text = value.get(field)
    if isinstance(text, str):
        return text
    raise InputError(
        f"{place} has no text in the field {field!r}"
        + (
            f": it holds {type(text).__name__}" if field in value else f"; its fields are {', '.join(map(repr, value))}"
        ),
        fix="name the field with --text-field, or correct the data",
    )


def _dataset_name(source: str) -> tuple[str, str, str | None]:
    """(directory or name, split, configuration)."""
    name, split, configuration, *_ = [*source.removeprefix(DATASET).split(":"), "", ""]
    return name, split or "train", configuration or None


def _rows(source: str, field: str) -> Iterator[Part]:
    """The rows of a data set."""
    name, split, configuration = _dataset_name(source)
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            f"{source} needs datasets, which cannot be imported: {error}.",
            fix="pip install 'flextron-export[datasets]'",
        ) from error
    try:
        if any((Path(name) / file).is_file() for file in ("state.json", "dataset_dict.json")):
            data = datasets.load_from_disk(name)
            if isinstance(data, datasets.DatasetDict):
                if split not in data:
                    raise InputError(f"{source} has no split {split!r}", fix=f"use one of: {', '.join(map(str, data))}")
                data = data[split]
        else:
            data = datasets.load_dataset(name, configuration, split=split, streaming=True)
    except (OSError, *MALFORMED) as error:
        raise _unreadable(source, error) from error
    number, blocks = 0, data.iter(batch_size=64)
    while True:
        try:
            rows = next(blocks, None)
        except Exception as error:  # whatever the reader of the format, or the network, has to say
            raise _unreadable(source, error) from error
        if rows is None:
            return
        for row in (dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)):
            number += 1
            yield from _document(_text_of(row, field, f"{source}, row {number}"))


def _unreadable(source: str, error: Exception) -> InputError:
    return InputError(
        f"{source} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        cause="the data set, its split or its configuration does not exist, or the network cannot be reached",
        fix=f"write {DATASET}DIRECTORY_OR_NAME[:SPLIT[:CONFIGURATION]]",
    )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to read bytes from, decompressed; what goes wrong while it is read is an InputError."""
    try:
        with _OPEN.get(path.suffix, open)(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"There is no text file {path}", fix="check the path") from None
    except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{path} cannot be decompressed: {error}",
            cause="the file is damaged or incomplete, or its name does not say what it is",
            fix="copy or compress it again",
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", fix="pass a readable text file") from None


def _not_text(path: Path, cause: str) -> InputError:
    return InputError(f"{path} is not UTF-8 text", cause=cause, fix="convert the file to UTF-8, or pass a text file")
