"""Answers in the form of the OpenAI API, whole and in chunks."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from ..runtime.generation import Generation
from ..runtime.logprobs import Logprob
from ..runtime.selection import Selection
from ..runtime.tokenizer import Tokenizer
from .engine import Piece

DONE = "data: [DONE]\n\n"


class Writer:
    """Writes the answer to one request.

    Args:
        chat: for `/v1/chat/completions`, else for `/v1/completions`.
        model: as the client named it.
        tokenizer: for the texts of tokens whose log-probabilities were asked for; None if none were.
        selection: the budget that answers.
    """

    def __init__(self, chat: bool, model: str, tokenizer: Tokenizer | None, selection: Selection) -> None:
        self.chat, self.model, self._tokenizer, self._selection = chat, model, tokenizer, selection
        self._id = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())
        self._offsets: dict[int, int] = {}
        self._begun: set[int] = set()

    def whole(self, pieces: Sequence[Piece], generations: Sequence[Generation[str]]) -> dict[str, Any]:
        """The answer at once."""
        choices = []
        for index, generation in enumerate(generations):
            logprobs = self._logprobs(index, [entry for p in pieces if p.index == index for entry in p.logprobs])
            text = "".join(p.text for p in pieces if p.index == index)
            body = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
            choices.append({"index": index, **body, "logprobs": logprobs, "finish_reason": _reason(generation)})
        return {
            **self._head("chat.completion" if self.chat else "text_completion"),
            "choices": choices,
            "usage": usage(generations),
            "flextron": {**self._about(), "timings": [timings(g) for g in generations]},
        }

    def chunk(self, piece: Piece, generation: Generation[str]) -> str:
        """One event of a stream. The first tells the budget, the last of each choice how it ended and what it took."""
        first = piece.index not in self._begun
        self._begun.add(piece.index)
        choice: dict[str, Any] = {"index": piece.index, "logprobs": self._logprobs(piece.index, piece.logprobs)}
        if self.chat:
            role = {"role": "assistant"} if first else {}
            choice["delta"] = {**role, "content": piece.text} if piece.text or first else {}
        else:
            choice["text"] = piece.text
        choice["finish_reason"] = _reason(generation) if piece.ended else None
        extra = {**(self._about() if first else {}), **({"timings": [timings(generation)]} if piece.ended else {})}
        return self._event([choice], {"flextron": extra} if extra else {})

    def usage_chunk(self, generations: Sequence[Generation[str]]) -> str:
        """The event with the number of tokens, if it was asked for."""
        return self._event([], {"usage": usage(generations)})

    def _event(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> str:
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        return event({**head, "choices": choices, **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self.model}

    def _about(self) -> dict[str, Any]:
        found = self._selection.to_json()
        return {key: found[key] for key in ("budget", "reason", "met", "numbers")}

    def _logprobs(self, index: int, entries: Sequence[Logprob]) -> dict[str, Any] | None:
        if self._tokenizer is None:
            return None
        text = self._tokenizer.token
        if self.chat:
            return {
                "content": [
                    {
                        **_chat_token(text(e.token), e.logprob),
                        "top_logprobs": [_chat_token(text(t), p) for t, p in e.top],
                    }
                    for e in entries
                ],
                "refusal": None,
            }
        tokens, offsets = [text(e.token) for e in entries], []
        place = self._offsets.get(index, 0)
        for token in tokens:
            offsets.append(place)
            place += len(token)
        self._offsets[index] = place
        return {
            "tokens": tokens,
            "token_logprobs": [e.logprob for e in entries],
            "top_logprobs": [{text(t): p for t, p in e.top} for e in entries],
            "text_offset": offsets,
        }


def event(value: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def usage(generations: Sequence[Generation[str]]) -> dict[str, Any]:
    """Tokens read and written."""
    prompt, written, cached = (
        sum(getattr(g.timings, key) for g in generations) for key in ("prompt_tokens", "tokens", "reused_tokens")
    )
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def timings(generation: Generation[str]) -> dict[str, Any]:
    """What one answer took, without the time of every single token."""
    found = generation.timings.to_json()
    return {key: found[key] for key in ("first_token_ms", "p50", "p95", "met", "stopped_by")}


def _reason(generation: Generation[str]) -> str:
    return "stop" if generation.stopped_by in ("eos", "stop") else "length"


def _chat_token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
