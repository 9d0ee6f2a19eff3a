"""From a request to generations that can start: the budget, the prompts, the options. Runs in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BundleError, InputError
from ..runtime.generation import Generation
from ..runtime.runner import Runner
from ..runtime.selection import Selection
from .refusals import Refusal
from .schema import ChatRequest, CompletionRequest, Request
from .settings import ServeSettings


@dataclass(frozen=True)
class Prepared:
    """What a request asks for; nothing has run yet."""

    generations: tuple[Generation[str], ...]
    selection: Selection
    logprobs: bool


def prepare(runner: Runner, settings: ServeSettings, request: Request) -> Prepared:
    """Check a request and pick its budget.

    Raises:
        Refusal, FlextronError: it cannot be served.
    """
    prompts: list[list[int]]
    if isinstance(request, ChatRequest):
        prompts = [runner.chat_prompt([message.plain() for message in request.messages])]
        wanted = request.max_completion_tokens or request.max_tokens
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        if request.top_logprobs is not None and not request.logprobs:
            raise Refusal(400, "top_logprobs needs logprobs.", "invalid_value")
    else:
        assert isinstance(request, CompletionRequest)
        _check_choices(len(request.prompts()) * request.n, settings.choices)
        prompts = [_ids(runner, prompt) for prompt in request.prompts()]
        wanted, logprobs = request.max_tokens or 16, request.logprobs
    _check_choices(len(prompts) * request.n, settings.choices)
    longest = max(map(len, prompts), default=0)
    _check_length(longest, min(settings.prompt_tokens or runner.max_tokens, runner.max_tokens))
    most = min(settings.new_tokens or runner.max_tokens, max(runner.max_tokens - longest + 1, 1))
    count = most if wanted is None else min(wanted, most)
    if not prompts:
        raise Refusal(400, "There is no prompt.", "invalid_value")
    selection = _select(runner, settings, request, min(longest + count, runner.max_tokens))
    selection = runner.for_prompts(selection, prompts)
    generations = tuple(
        runner.generate(
            prompt,
            count,
            selection=selection,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            seed=None if request.seed is None else request.seed + number,
            stop=request.stop or (),
            logprobs=logprobs,
            stop_on_eos=not request.ignore_eos,
        )
        for prompt in prompts
        for number in range(request.n)
    )
    return Prepared(generations, selection, logprobs is not None)


def models(runner: Runner, settings: ServeSettings) -> list[str]:
    """Names that a request may use: the model, whose budget is picked, and each of its budgets."""
    return [settings.name, *(f"{settings.name}:{budget.name}" for budget in runner.budgets)]


def _ids(runner: Runner, prompt: str | Sequence[int]) -> list[int]:
    return runner.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)


def _check_choices(wanted: int, most: int) -> None:
    if wanted > most:
        raise Refusal(400, f"{wanted} answers were asked for; {most} are allowed.", "invalid_value")


def _check_length(longest: int, most: int) -> None:
    if longest > most:
        raise Refusal(400, f"The prompt has {longest} tokens; at most {most} are allowed.", "context_length_exceeded")


def _select(runner: Runner, settings: ServeSettings, request: Request, context: int) -> Selection:
    model, _, budget = request.model.partition(":")
    if model != settings.name:
        known = ", ".join(models(runner, settings))
        raise Refusal(404, f"There is no model {request.model!r}. There are: {known}.", "model_not_found")
    named = [value for value in (budget, request.budget) if value]
    target = request.latency_target if request.latency_target is not None else request.latency_target_ms
    if request.latency_target is not None and request.latency_target_ms is not None:
        raise Refusal(400, "Send either latency_target or latency_target_ms.", "invalid_value")
    if len(set(named)) > 1 or (named and target is not None):
        raise InputError("A latency target and a budget, or two budgets, were given.", fix="send one of them")
    best_effort = settings.best_effort if request.best_effort is None else request.best_effort
    if named:
        try:
            return runner.select(budget=named[0])
        except BundleError as error:
            known = ", ".join(b.name for b in runner.budgets)
            raise Refusal(404, f"There is no budget {named[0]!r}. There are: {known}.", "model_not_found") from error
    if target is not None:
        return runner.select(target, context=context, best_effort=best_effort)
    return runner.selection
