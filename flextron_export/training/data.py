"""Tokens for training: tokenising documents, packing them into sequences, drawing batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CheckpointError, InputError
from ..files import write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ..elastic.architecture import Architecture


END = "<|endoftext|>"
"""Token after every document, in the tokenizers this package makes."""

MARKER = "pretraining.json"
"""File in the model directories this package makes from nothing: how they were made."""


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a model directory, without the truncation and padding that its file may ask for.

    Raises:
        CheckpointError: tokenizer.json is missing or damaged.
    """
    from tokenizers import Tokenizer

    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{directory} has no tokenizer.json.",
            cause="the model comes with a slow tokenizer only",
            fix=f"load it with transformers' AutoTokenizer and save_pretrained it into {directory}",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CheckpointError(f"{path} is damaged: {error}.", fix="copy it again") from error
    # Whoever saved it may have been preparing batches; a document is as long as it is.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json, and beside it what transformers' AutoTokenizer needs."""
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "clean_up_tokenization_spaces": False},
    )


def pack(
    documents: Sequence[str], tokenizer: Tokenizer, length: int, vocab_size: int, end: int | None = None
) -> np.ndarray:
    """Tokenise documents, join them, and cut the result into sequences; what does not fill the last one is dropped.

    Args:
        length: tokens per sequence.
        vocab_size: number of rows of the model's embedding.
        end: token put after every document, or None.

    Returns:
        int64 [sequences, length].

    Raises:
        InputError: the text is shorter than one sequence, or has tokens that the model does not know.
    """
    suffix = [] if end is None else [end]
    ids = [i for encoding in tokenizer.encode_batch(list(documents)) for i in (*encoding.ids, *suffix)]
    tokens = np.asarray(ids, np.int64)
    check_length(len(tokens), length)
    check_vocabulary(int(tokens.max()), vocab_size)
    return tokens[: len(tokens) // length * length].reshape(-1, length)


def check_length(tokens: int, length: int) -> None:
    """Raise InputError if a text does not fill one sequence."""
    if tokens < length:
        raise InputError(
            f"The text is too short: it has {tokens} tokens, one sequence needs {length}.",
            cause="too little text is left after some was held out for validation",
            fix="pass more text, or a shorter --length",
        )


def check_positions(length: int, architecture: Architecture) -> None:
    """Raise InputError if a sequence is longer than what the model was made for."""
    if length > architecture.max_positions:
        raise InputError(
            f"A sequence of {length} tokens is too long: the model has {architecture.max_positions} positions.",
            fix=f"pass --length {architecture.max_positions} or less",
        )


def check_vocabulary(token: int, vocab_size: int) -> None:
    """Raise InputError if the largest token of a text is not one of the model's."""
    if token >= vocab_size:
        raise InputError(
            f"The text has token {token}, but the model knows only {vocab_size} tokens.",
            cause="tokenizer.json belongs to another model, or tokens were added to it",
            fix="use the tokenizer that the model was trained with",
        )


def spread(tokens: np.ndarray, sequences: int) -> np.ndarray:
    """At most that many sequences, evenly spread over the text: its start alone may be easier than the rest.

    int64 in memory, also of a memory-mapped text.
    """
    if len(tokens) <= sequences:
        return tokens.astype(np.int64, copy=False)
    return tokens[np.linspace(0, len(tokens) - 1, sequences).round().astype(int)].astype(np.int64)


def batches(tokens: np.ndarray, batch: int, length: int, seed: int | np.random.Generator) -> Iterator[np.ndarray]:
    """Yield random windows forever, the same for the same seed.

    Args:
        tokens: integers of any shape, read as one text; may be memory-mapped.
        seed: or a generator, which then holds the position: one draw per batch.

    Yields:
        int64 [batch, length + 1]: inputs, and the same tokens one place further as targets.
    """
    text = tokens.reshape(-1)
    if len(text) <= length:
        raise InputError(
            f"The text is too short: it has {len(text)} tokens, one training sequence needs {length + 1}.",
            fix="pass more text, or a shorter --length",
        )
    random = np.random.default_rng(seed)
    offsets = np.arange(length + 1)
    while True:
        yield text[random.integers(0, len(text) - length, batch)[:, None] + offsets].astype(np.int64, copy=False)
