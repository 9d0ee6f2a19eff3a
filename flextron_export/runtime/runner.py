"""The runner: open a bundle, pick the budget that meets a latency target on this device, generate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..bundle.manifest import Bundle
from ..elastic.widths import Budget
from ..errors import InputError
from ..progress import Track, silent
from .advancing import Advancing
from .answer import Answer
from .batch import LiveBatch, generate_batch
from .chat import ChatTemplate
from .generation import Cancelled, Generation, steps, texts_of, tokens_of
from .governor import Switch
from .latency_target import LatencyTarget
from .measurements import Measurements
from .opening import How, SharedSession, open_bundle
from .options import GenerationOptions
from .prefixes import PrefixCache
from .prompt_router import PromptRouter
from .selection import Selection, select
from .sequence import CHUNK, LiveSequence
from .table import LatencyTable
from .timings import Timings
from .tokenizer import TextStream, Tokenizer, check_ids

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class Runner:
    """A bundle, loaded at the budget that was picked for this device. Use it in a `with` statement.

        with Runner("bundle", "20ms") as runner:
            print(runner.selection.reason)
            for piece in runner.generate("In the beginning"):
                print(piece, end="", flush=True)

    Args:
        bundle: its directory.
        latency_target: milliseconds per token, or a `LatencyTarget`, or a string such as `20ms`, `300ms@128` (to the
            first token of a 128-token prompt), `512MB`, or several with commas. None for no target: the widest budget
            runs.
        budget: run this budget, whatever it costs; excludes a latency target. With layout `routed`, `r60` is the
            router at 0.6 of the full model's latency.
        best_effort: if no budget meets the target, run the one that comes closest instead of raising.
        verify_hashes: check the SHA-256 of every file in the bundle, not only sizes.
        context: tokens (prompt and answer) at which the target must hold; by default the longest that was measured.
        calibration: `auto` measures the budgets if this device has no table yet, `always` measures them now, `never`
            raises instead; or a table.
        chunk: tokens per prefill call.
        prefix_cache: KV caches of ended generations to keep, for prompts that begin like theirs; 0 for none.
        speculative: `off`; `auto` lets a narrower budget draft tokens that the budget verifies, where measurements say
            that this is faster; a number drafts that many at a time. See `Speculator`.
        draft: the budget that drafts.
        governor: `on` changes the budget within a generation to keep the target's time per token while the machine is
            busy, and back; `narrow` never back. `selection` is the widest that it runs. A generation without such a
            target keeps its budget.
        on_switch: is called at every such change; they are in `timings.switches` too.
        track: shows progress of a calibration.
        how: target, layout, dtype, threads, low_memory: see `How`.

    Attributes:
        bundle: the opened bundle.
        selection: which budget was picked, why, and what was rejected.
        timings: of the latest generation.

    Threads may share a runner.

    Raises:
        NoBudgetFitsError: no budget meets the target.
        InputError: an argument cannot be used, or there is no table and `calibration` is `never`.
        BundleError, TargetError, MissingDependencyError: the bundle cannot be opened on that target.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        latency_target: str | float | LatencyTarget | None = None,
        *,
        budget: str | None = None,
        best_effort: bool = False,
        verify_hashes: bool = True,
        context: int | None = None,
        calibration: str | LatencyTable = "auto",
        chunk: int = CHUNK,
        prefix_cache: int = 1,
        speculative: str | int = "off",
        draft: str | None = None,
        governor: str = "off",
        on_switch: Callable[[Switch], None] = lambda switch: None,
        track: Track = silent,
        **how: Unpack[How],
    ) -> None:
        if chunk < 1 or (context is not None and context < 1):
            raise InputError(f"chunk {chunk} and context {context} must be at least 1.")
        if latency_target is not None:
            latency_target = LatencyTarget.parse(latency_target)  # before anything is loaded
        self._prefixes = PrefixCache(prefix_cache)
        opening = open_bundle(bundle, hashes=verify_hashes, **how)
        self.bundle, self._layout, self._chunk = opening.bundle, opening.layout, chunk
        self._session = SharedSession(opening)
        self._measurements = Measurements(self._session, calibration, track)
        self._advancing = Advancing(
            self._session,
            self.budgets,
            self._measurements,
            speculative=speculative,
            draft=draft,
            governor=governor,
            on_switch=on_switch,
        )
        self._advancing.check_target(latency_target)
        self.timings = Timings()
        try:
            self.selection = self.select(latency_target, budget=budget, context=context, best_effort=best_effort)
            self._advancing.check(self.selection)
        except BaseException:
            self.close()
            raise

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """What can be run: the bundle's budgets, or with layout `routed` the router at every trained target."""
        return self.bundle.budgets_of(self._layout)

    @property
    def max_tokens(self) -> int:
        """Most tokens, prompt and answer together, that one generation may hold."""
        return self._session.max_tokens

    @property
    def table(self) -> LatencyTable | None:
        """The measurements that budgets are picked by; None as long as none were needed."""
        return self._measurements.table

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer; InputError if it has none."""
        return Tokenizer(self.bundle.path)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The bundle's chat template; InputError if it has none."""
        return ChatTemplate.of(self.bundle.path)

    def select(
        self,
        latency_target: str | float | LatencyTarget | None = None,
        *,
        budget: str | None = None,
        context: int | None = None,
        best_effort: bool = False,
    ) -> Selection:
        """Pick a budget for one generation; the bundle stays loaded, and `selection` as it is.

        Args:
            latency_target, budget, best_effort: as for the runner; without target and budget, the widest.
            context: tokens at which the target must hold; by default the longest that was measured.

        Raises:
            NoBudgetFitsError: no budget meets the target.
            BundleError: there is no such budget.
            InputError: an argument cannot be used, or there is no table and `calibration` is `never`.
        """
        budgets = self.budgets
        if latency_target is not None and budget is not None:
            raise InputError("A latency target and a budget were given.", fix="pass one of them")
        if budget is not None:
            return Selection(self.bundle.budget(budget, self._layout), f"{budget} was asked for by name.")
        if latency_target is None:
            widest = max(budgets, key=lambda b: b.parameters(self.bundle.architecture))
            return Selection(widest, f"{widest.name} is the widest budget; there was no latency target.")
        target = LatencyTarget.parse(latency_target)
        table = self.measurements(target, context)
        return select(budgets, table, target, context=context, best_effort=best_effort)

    def for_prompts(self, selection: Selection, prompts: Sequence[str | Sequence[int]]) -> Selection:
        """Of the budgets that meet a selection's target, the one nearest to what the bundle's prompt router chooses.

        Several prompts share one budget. Without such a router, or a target that is met, the selection as it is.

        Raises:
            InputError: as for `generate`.
        """
        if self._prompt_router is None or selection.target is None or not prompts:
            return selection
        return self._prompt_router.choose(selection, [self._prompt(prompt) for prompt in prompts])

    def measurements(self, target: LatencyTarget | None = None, context: int | None = None) -> LatencyTable:
        """The measurements of this device; they are made now if there are none and `calibration` allows it.

        `target` and `context` name lengths that are to be measured too, if it comes to that.
        """
        return self._measurements.find(target, context)

    def generate(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 64,
        *,
        selection: Selection | None = None,
        **options: Any,
    ) -> Generation[str]:
        """Generate text, piece by piece as it is decided.

            for piece in runner.generate("In the beginning", 40, temperature=0.8, top_p=0.95, stop=["\n\n"]):
                print(piece, end="", flush=True)

        Threads may generate at once. A prompt that begins like one of the last generations is computed from where it
        differs.

        Args:
            prompt: text, or token ids.
            max_new_tokens: stop after that many.
            selection: run this budget, from `select` or `for_prompts`; by default what `for_prompts` makes of the
                runner's own.
            options: see `GenerationOptions`: temperature, top_k, top_p, min_p, repetition_penalty, seed, stop,
                logprobs, stop_on_eos.

        Returns:
            An iterator over pieces of text, with `text`, `tokens`, `logprobs`, `timings`, `stopped_by` and `cancel`.

        Raises:
            InputError: the prompt is empty or longer than the model holds, or an option cannot be used.
        """
        asked = _options(max_new_tokens, options)
        return self._generation(self._prompt(prompt), asked, selection, self.tokenizer, texts_of)

    def generate_ids(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 64,
        *,
        selection: Selection | None = None,
        **options: Any,
    ) -> Generation[int]:
        """As `generate`, but token ids; a prompt of ids without `stop_on_eos` and `stop` needs no tokenizer."""
        asked = _options(max_new_tokens, options)
        tokenizer = self.tokenizer if asked.stops else None
        return self._generation(self._prompt(prompt), asked, selection, tokenizer, tokens_of)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_new_tokens: int = 64,
        *,
        selection: Selection | None = None,
        **options: Any,
    ) -> Generation[str]:
        """As `generate`, after a conversation written by the bundle's chat template.

        Args:
            messages: such as `[{"role": "user", "content": "Hello"}]`.
        """
        return self.generate(self.chat_prompt(messages), max_new_tokens, selection=selection, **options)

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation and the beginning of the next answer."""
        return self.tokenizer.encode(self.chat_template.render(messages), special=False)

    def generate_batch(
        self,
        prompts: Sequence[str | Sequence[int]],
        max_new_tokens: int = 64,
        *,
        selection: Selection | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Generate after several prompts at once, at one budget (see `for_prompts`); they may differ in length.

        Every answer is what `generate` gives for that prompt alone (but for rounding); a seed is that of every prompt.
        `timings` are those of the longest.

        Returns:
            For each prompt its answer: `text` (if the bundle has a tokenizer), `tokens`, `logprobs`, `stopped_by`.

        Raises:
            InputError: as for `generate`; there must be a prompt.
        """
        asked = _options(max_new_tokens, options)
        ids = [self._prompt(prompt) for prompt in prompts]
        if not ids:
            raise InputError("There is no prompt.", fix="pass a list of at least one")
        tokenizer = self.tokenizer if self._has_tokenizer() else None
        selection = selection or self.for_prompts(self.selection, ids)
        session = self._session.get()
        answers = [self._answer(prompt, asked, tokenizer) for prompt in ids]
        self.timings = Timings(max(map(len, ids)), target=selection.target)
        batch = LiveBatch(session, selection.budget, len(ids), self.max_tokens, chunk=self._chunk)
        generate_batch(batch, ids, answers, self.timings, check=self._session.get)
        return answers

    def close(self) -> None:
        """Release the weights. Running generations end with an error."""
        self._session.close()
        self._prefixes.clear()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _generation(
        self,
        ids: list[int],
        options: GenerationOptions,
        selection: Selection | None,
        tokenizer: Tokenizer | None,
        view: Callable[[Iterator[tuple[int, str]]], Iterator[T]],
    ) -> Generation[T]:
        selection = selection or self.for_prompts(self.selection, [ids])
        session, maximum = self._session.get(), self.max_tokens
        answer = self._answer(ids, options, tokenizer)
        self.timings = timings = Timings(len(ids), target=selection.target)
        advance = self._advancing.of(selection, options.sampling, timings)
        cancelled = threading.Event()

        def check() -> None:
            if cancelled.is_set():
                raise Cancelled
            self._session.get()

        def sequence() -> LiveSequence:
            check()
            found = self._prefixes.take(selection.budget, ids, maximum)
            return found or LiveSequence(session, selection.budget, maximum, chunk=self._chunk)

        written = steps(sequence, self._prefixes.give, ids, answer, timings, check, advance)
        return Generation(view(written), answer, timings, selection, cancelled)

    @cached_property
    def _prompt_router(self) -> PromptRouter | None:
        router = self.bundle.router
        return PromptRouter(self.bundle) if router and router.kind == "prompt" else None

    def _answer(self, ids: list[int], options: GenerationOptions, tokenizer: Tokenizer | None) -> Answer:
        eos = self.tokenizer.eos if options.stop_on_eos and self._has_tokenizer() else frozenset()
        return Answer(ids, options, eos, TextStream(tokenizer, ids) if tokenizer else None)

    def _has_tokenizer(self) -> bool:
        return (self.bundle.path / "tokenizer.json").is_file()

    def _prompt(self, prompt: str | Sequence[int]) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else [int(i) for i in prompt]
        check_ids(ids, self.bundle.architecture.vocab_size, self.max_tokens)
        return ids


def _options(max_new_tokens: int, options: Mapping[str, Any]) -> GenerationOptions:
    found = GenerationOptions(max_new_tokens, **options)
    found.validate()
    return found
