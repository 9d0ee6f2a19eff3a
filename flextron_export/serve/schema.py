"""Requests of the OpenAI API as far as this server knows them, and what it adds to choose a budget."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

IGNORED = frozenset(
    {"metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
)
"""Fields that change nothing here."""


Stop = Annotated[str, Field(max_length=1000)]


class StreamOptions(BaseModel):
    include_usage: bool = False
    include_obfuscation: bool = False


class Request(BaseModel):
    """What both endpoints take. Fields that are not known are refused rather than silently left out."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=256)
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = Field(1, ge=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    # Beyond OpenAI: as other open servers name them.
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    ignore_eos: bool = False
    # Which budget answers.
    latency_target_ms: float | None = None
    latency_target: str | None = Field(None, max_length=256)
    budget: str | None = Field(None, max_length=256)
    best_effort: bool | None = None


class CompletionRequest(Request):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = None
    echo: Literal[False] = False
    best_of: Literal[1] = 1

    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt."""
        given: Any = self.prompt
        return given if isinstance(given, list) and not all(isinstance(part, int) for part in given) else [given]


class TextPart(BaseModel):
    """A part of a message; other kinds, such as pictures by address, are refused."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """For a chat template, which knows texts only."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": content}


class ChatRequest(Request):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0)


def known(body: dict[str, Any]) -> dict[str, Any]:
    """A request without the fields that change nothing, and without those that are null."""
    return {key: value for key, value in body.items() if key not in IGNORED and value is not None}
