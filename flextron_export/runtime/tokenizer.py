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
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.eos = frozenset(_eos(directory, self._tokenizer))

    def encode(self, text: str) -> list[int]:
        """Token ids, with a beginning-of-text token if the tokenizer adds one."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self, ids: Iterable[int], prompt: Sequence[int] = ()) -> Iterator[str]:
        """Text of tokens as they come: never half a character, and a space after the prompt if there is one.

        The pieces joined are what `decode` gives for prompt and tokens, less the prompt's text.
        """
        # Decoders look at neighbours (a leading space is dropped, bytes are joined), so a token is decoded together
        # with those before it, back to the last point but one where the text was whole.
        window = list(prompt)
        text = self.decode(window)
        emitted, whole = len(text.rstrip(_INCOMPLETE)), 0 if text.endswith(_INCOMPLETE) else len(window)
        waiting = 0
        for token in ids:
            window.append(token)
            text = self.decode(window)
            waiting = waiting + 1 if text.endswith(_INCOMPLETE) else 0
            ready = len(text) if waiting >= _LONGEST_CHARACTER else len(text.rstrip(_INCOMPLETE))
            if ready > emitted:
                yield text[emitted:ready]
                emitted, waiting = ready, 0
            if not text.endswith(_INCOMPLETE) and (last := self.decode(window[whole:])):
                window, whole = window[whole:], len(window) - whole
                emitted, waiting = len(last), 0
        if rest := self.decode(window)[emitted:]:
            yield rest


def _eos(directory: Path, tokenizer: Any) -> tuple[int, ...]:
    """The first of generation_config.json, config.json (ids) and tokenizer_config.json (a token) that names one."""
    damaged = "copy the bundle again, or export it again"
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        path = directory / name
        value = read_object(path, BundleError, damaged) if path.is_file() else {}
        found = value.get("eos_token" if name == "tokenizer_config.json" else "eos_token_id")
        try:
            if name == "tokenizer_config.json" and found is not None:
                found = tokenizer.token_to_id(found["content"] if isinstance(found, dict) else found)
            if found is not None:
                return integers(found if isinstance(found, list) else [found])
        except MALFORMED as error:
            raise BundleError(f"{path} is damaged: its end-of-text token: {error}.", fix=damaged) from error
    return ()
