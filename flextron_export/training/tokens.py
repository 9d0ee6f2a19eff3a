"""Text as tokens on disk: tokenised once, as a stream, split by document, and memory-mapped.

What lies there equals `data.pack` of `corpus.split` of `corpus.read_text`, which hold everything in memory.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..files import new_directory, read_object, sha256, write_json
from .corpus import pieces, split_order
from .data import check_length, check_vocabulary
from .progress import LONGEST_SILENCE
from .sources import LONGEST, Part, is_dataset, is_streamed, local_files, read_parts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MARKER = "tokens.json"
BLOCK = 1 << 18
"""Characters that are tokenised at once."""


@dataclass(frozen=True)
class Tokens:
    """Tokenised text, memory-mapped.

    Attributes:
        train: uint16 or uint32 [sequences, length].
        validation: likewise.
        sha256: of both files (hex): the same for the same text, split and tokenizer.
    """

    train: np.ndarray
    validation: np.ndarray
    sha256: str


def tokenise(
    sources: Sequence[str | Path],
    tokenizer: Tokenizer,
    directory: str | Path,
    *,
    length: int,
    vocab_size: int,
    end: int | None,
    seed: int,
    field: str = "text",
    validation_share: float = 0.05,
    limit: int | None = None,
    progress: bool = False,
) -> Tokens:
    """Tokenise documents, hold some out, and write both sides; what an earlier call wrote of the same text is used.

    Memory grows by a few dozen bytes per document, not with the text. Equal documents count once, so that no text is on
    both sides; the order of each side is random and the same for the same seed.

    Args:
        sources: see `sources.read_parts`; a file, also of a data set's directory, is taken to
            be the same if its size and time of change are.
        directory: where to write; made, or replaced if this function wrote it.
        length: tokens per sequence; what does not fill the last one of a side is not used.
        vocab_size: number of rows of the model's embedding.
        end: token put after every document, or None.
        limit: tokens after which reading stops if some source is streamed.

    Raises:
        InputError: a source cannot be used, the text is too short or has unknown tokens, or the disk is full.
    """
    directory = Path(directory)
    limit = limit if any(map(is_streamed, sources)) else None
    made_from = {
        "sources": [_identity(source) for source in sources],
        "tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "length": length,
        "end": end,
        "seed": seed,
        "field": field,
        "validation_share": validation_share,
        "limit": limit,
    }
    marker = directory / MARKER
    if not _written(directory, made_from):
        dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
        with new_directory(directory, marker=MARKER, overwrite=True) as new:
            writer = _Writer(new / "documents", tokenizer, dtype, vocab_size, end, progress)
            writer.write(read_parts(sources, field), limit)
            if len(writer.starts) == 1:
                writer.write(_single(sources, field), limit)
            documents = writer.different()
            sides = split_order(len(documents), validation_share, seed)
            counts = [
                writer.copy(new / name, (documents[i] for i in side), length)
                for name, side in zip(("train", "validation"), sides, strict=True)
            ]
            (new / "documents").unlink()
            digest = hashlib.sha256("".join(sha256(new / name) for name in ("train", "validation")).encode())
            write_json(
                new / MARKER,
                {
                    "made_from": made_from,
                    "dtype": dtype.name,
                    "train": counts[0],
                    "validation": counts[1],
                    "documents": len(documents),
                    "sha256": digest.hexdigest(),
                },
            )
    record = read_object(marker, InputError, f"remove {directory}")
    train, validation = (
        np.memmap(directory / name, record["dtype"], "r", shape=(record[name] // length, length))
        for name in ("train", "validation")
    )
    return Tokens(train, validation, record["sha256"])


def _written(directory: Path, made_from: dict[str, Any]) -> bool:
    """Whether the directory holds the tokens of this text, whole."""
    if not (directory / MARKER).is_file():
        return False
    record = read_object(directory / MARKER, InputError, f"remove {directory}")
    return record.get("made_from") == made_from and all(
        (directory / name).is_file()
        and (directory / name).stat().st_size >= record[name] * np.dtype(record["dtype"]).itemsize
        for name in ("train", "validation")
    )


class _Writer:
    """Tokens of documents one after the other in a file, and where each begins."""

    def __init__(
        self, path: Path, tokenizer: Tokenizer, dtype: np.dtype[Any], vocab_size: int, end: int | None, progress: bool
    ) -> None:
        self.path, self.tokenizer, self.dtype = path, tokenizer, dtype
        self.vocab_size, self.progress = vocab_size, progress
        self.end = np.asarray([] if end is None else [end], dtype)
        self.starts, self.digests, self.size = array("q"), bytearray(), 0

    def write(self, parts: Iterable[Part], limit: int | None) -> None:
        """Write documents in place of what was written before, until there are `limit` tokens."""
        self.starts, self.digests, self.size = array("q"), bytearray(), 0
        begins, digest, said = True, hashlib.blake2b(digest_size=16), time.monotonic()
        with self.path.open("wb") as file:
            for block in _blocks(parts):
                for (text, ends), ids in zip(block, self._encode(block, begins), strict=True):
                    if begins:
                        self.starts.append(self.size)
                        digest = hashlib.blake2b(digest_size=16)
                    digest.update(text.encode(errors="surrogatepass"))
                    self._append(file, ids)
                    if ends:
                        self._append(file, self.end)
                        self.digests += digest.digest()
                    begins = ends
                if limit is not None and self.size >= limit and begins:
                    break
                if self.progress and time.monotonic() - said > LONGEST_SILENCE:
                    said = time.monotonic()
                    print(f"reading text: {self.size / 1e6:,.1f} million tokens", file=sys.stderr, flush=True)

    def _encode(self, block: Sequence[Part], begins: bool) -> Iterator[np.ndarray]:
        # What a tokenizer puts around a text does not belong inside one that comes in parts.
        whole = [ends and before for (_, ends), before in zip(block, [begins, *(p.ends for p in block)], strict=False)]
        encoded = {
            special: iter(
                self.tokenizer.encode_batch_fast(
                    [p.text for p, w in zip(block, whole, strict=True) if w == special], add_special_tokens=special
                )
            )
            for special in (True, False)
        }
        for special in whole:
            yield np.asarray(next(encoded[special]).ids, np.int64)

    def _append(self, file: IO[bytes], ids: np.ndarray) -> None:
        if len(ids):
            check_vocabulary(int(ids.max()), self.vocab_size)
            file.write(ids.astype(self.dtype).tobytes())
            self.size += len(ids)

    def different(self) -> np.ndarray:
        """int64 [documents, 2]: first token and number of tokens of each, of equal ones only the first."""
        starts = np.frombuffer(self.starts, np.int64)
        digests = np.frombuffer(self.digests, "V16")
        sizes = np.diff(starts, append=self.size)[: len(digests)]
        _, first = np.unique(digests, return_index=True)
        first.sort()
        return np.stack([starts[first], sizes[first]], 1)

    def copy(self, path: Path, documents: Iterable[np.ndarray], length: int) -> int:
        """Write those documents after each other; return how many tokens there are in whole sequences."""
        count, item = 0, self.dtype.itemsize
        with self.path.open("rb") as source, path.open("wb") as file:
            for start, size in documents:
                # Read, not mapped: mapped pages would count as this process's memory.
                for offset in range(int(start), int(start + size), LONGEST):
                    amount = min(LONGEST, int(start + size) - offset)
                    file.write(os.pread(source.fileno(), amount * item, offset * item))
                count += int(size)
        check_length(count, length)
        return count // length * length


def _blocks(parts: Iterable[Part]) -> Iterator[list[Part]]:
    block: list[Part] = []
    size = 0
    for part in parts:
        block.append(part)
        size += len(part.text)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _single(sources: Sequence[str | Path], field: str) -> Iterator[Part]:
    """A text of one document as several."""
    parts = read_parts(sources, field)
    first = next(parts)
    if first.ends:
        yield from (Part(text, True) for text in pieces(first.text))
        return
    yield Part(first.text.strip(), True)
    yield from (Part(text, True) for part in parts if (text := part.text.strip()))


def _identity(source: str | Path) -> Any:
    found = []
    for path in local_files(source):
        status = path.stat()
        found.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    return [str(source), found] if is_dataset(source) else found
