"""Text to tokens and back, from the `tokenizer.json` in a bundle. Needs the tokenizers library alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import BundleError, InputError, MissingDependencyError
from ..files import MALFORMED, integers, read_object

_INCOMPLETE = "\ufffd"
"""What a decoder writes for bytes that are no whole character (yet)."""
_LONGEST_CHARACTER = 4
"""Bytes of a UTF-8 character: tokens that may pass before an incomplete one must be taken for broken."""


class Tokenizer:
    """The tokenizer of a bundle.

    Attributes:
        eos: ids that end a text.

    Raises:
        InputError: the bundle has no `tokenizer.json`; it can then be run on token ids only.
        BundleError: a tokenizer file is damaged.
    """

    def __init__(self, directory: str | Path) -> None:
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise InputError(
                f"{directory} has no tokenizer.json, so text cannot be turned into tokens.",
                cause="the model that was exported came without a fast tokenizer",
                fix="pass token ids, or add tokenizer.json to the checkpoint and export again",
            )
        try:
            import tokenizers
        except ImportError as error:
            raise MissingDependencyError("tokenizers is missing.", fix="pip install tokenizers") from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"{path} is damaged: {error}.", fix="copy the bundle again") from error
        self.directory = directory
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.eos = frozenset(_eos(directory, self._tokenizer))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids, with a beginning-of-text token if the tokenizer adds one.

        `special=False` adds none: for text from a chat template, which writes them itself.
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def token(self, token: int) -> str:
        """Text of one token by itself, a special token's name included."""
        text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return text

    def named(self, name: str) -> int | None:
        """Id of a token that tokenizer_config.json names, such as `bos_token`; None if it names none.

        Raises:
            BundleError: the file is damaged.
        """
        return _named(self.directory, self._tokenizer, name)

    def stream(self, ids: Iterable[int], prompt: Sequence[int] = ()) -> Iterator[str]:
        """Text of tokens as they come, see `TextStream`; no empty pieces."""
        stream = TextStream(self, prompt)
        for token in ids:
            if piece := stream.push(token):
                yield piece
        if rest := stream.finish():
            yield rest


class TextStream:
    """Text of tokens as they come: never half a character, and a space after the prompt if there is one.

    The pieces joined are what `decode` gives for prompt and tokens, less the prompt's text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._decode = tokenizer.decode
        # Decoders look at neighbours (a leading space is dropped, bytes are joined), so a token is decoded together
        # with those before it, back to the last point but one where the text was whole.
        self._window = list(prompt)
        text = self._decode(self._window)
        self._emitted = len(text.rstrip(_INCOMPLETE))
        self._whole = 0 if text.endswith(_INCOMPLETE) else len(self._window)
        self._waiting = 0

    def push(self, token: int) -> str:
        """The text that a token makes ready; empty if its character is not whole yet."""
        self._window.append(token)
        text, piece = self._decode(self._window), ""
        self._waiting = self._waiting + 1 if text.endswith(_INCOMPLETE) else 0
        ready = len(text) if self._waiting >= _LONGEST_CHARACTER else len(text.rstrip(_INCOMPLETE))
        if ready > self._emitted:
            piece = text[self._emitted : ready]
            self._emitted, self._waiting = ready, 0
        if not text.endswith(_INCOMPLETE) and (last := self._decode(self._window[self._whole :])):
            self._window, self._whole = self._window[self._whole :], len(self._window) - self._whole
            self._emitted, self._waiting = len(last), 0
        return piece

    def finish(self) -> str:
        """What is left when no token follows."""
        text = self._decode(self._window)
        rest, self._emitted = text[self._emitted :], len(text)
        return rest


_CONFIG, _DAMAGED = "tokenizer_config.json", "copy the bundle again, or export it again"


def _eos(directory: Path, tokenizer: Any) -> tuple[int, ...]:
    """The first of generation_config.json, config.json (ids) and tokenizer_config.json (a token) that names one."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        found = read_object(path, BundleError, _DAMAGED).get("eos_token_id") if path.is_file() else None
        try:
            if found is not None:
                return integers(found if isinstance(found, list) else [found])
        except MALFORMED as error:
            raise BundleError(f"{path} is damaged: its end-of-text token: {error}.", fix=_DAMAGED) from error
    found = _named(directory, tokenizer, "eos_token")
    return () if found is None else (found,)


def _named(directory: Path, tokenizer: Any, name: str) -> int | None:
    """Id of the token that tokenizer_config.json gives a name to."""
    path = directory / _CONFIG
    found = read_object(path, BundleError, _DAMAGED).get(name) if path.is_file() else None
    try:
        token: int | None = None if found is None else tokenizer.token_to_id(_content(found))
    except MALFORMED as error:
        raise BundleError(f"{path} is damaged: its {name}: {error}.", fix=_DAMAGED) from error
    return token


def _content(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


def check_ids(ids: Sequence[int], vocabulary: int, most: int) -> None:
    """Raise InputError unless these can be a prompt: some, of the vocabulary, and at most so many."""
    if not ids:
        raise InputError("The prompt is empty, and this tokenizer begins no text by itself.", fix="pass a prompt")
    if outside := [i for i in ids if not 0 <= i < vocabulary]:
        raise InputError(
            f"Token id {outside[0]} is outside the vocabulary of {vocabulary}.",
            cause="a tokenizer of another model",
            fix="use the tokenizer of the model that was exported",
        )
    if len(ids) > most:
        raise InputError(
            f"The prompt has {len(ids)} tokens; the cache holds at most {most}.",
            fix="shorten the prompt, and leave room for the answer",
        )
