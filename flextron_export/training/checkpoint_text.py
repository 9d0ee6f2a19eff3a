"""The text for a router or a search: read like `elastify` reads it, with the same documents held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..elastic.architecture import read_config
from ..elastic.checkpoint import ElasticCheckpoint
from .data import check_positions, load_tokenizer
from .elastify import streamed_limit
from .tokens import Tokens, tokenise


def checkpoint_text(
    checkpoint: ElasticCheckpoint,
    text: Sequence[str | Path],
    directory: Path,
    *,
    length: int,
    field: str = "text",
    seed: int | None = None,
    progress: bool = False,
) -> Tokens:
    """A text in a checkpoint's tokens, on disk.

    Given the text that `elastify` was given, the same documents are held out, or a router would be measured on what the
    model was trained on. Of a streamed data set as much is read as `elastify` read.

    Args:
        text: see `sources.read_parts`.
        directory: where to write; see `tokens.tokenise`.
        length: tokens per sequence.
        field: of JSONL objects and data set rows.
        seed: of the split; default that of `elastify`.

    Raises:
        CheckpointError: the checkpoint has no usable tokenizer.
        InputError: the text cannot be used, or the sequences are longer than the model has positions.
    """
    check_positions(length, checkpoint.architecture)
    tokenizer, end = load_tokenizer(checkpoint.path), read_config(checkpoint.path).get("eos_token_id")
    trained = {**checkpoint.sorting, **checkpoint.training}
    return tokenise(
        text,
        tokenizer,
        directory,
        length=length,
        vocab_size=checkpoint.architecture.vocab_size,
        end=end[0] if isinstance(end, list) else end,
        seed=checkpoint.training.get("seed", 0) if seed is None else seed,
        field=field,
        limit=streamed_limit(trained.get("tokens", 0), trained.get("length", length)),
        progress=progress,
    )
