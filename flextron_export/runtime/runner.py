"""The runner: open a bundle, pick the budget that meets a latency target on this device, generate."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np

from ..bundle.manifest import Bundle
from ..errors import InputError
from ..progress import Track, silent
from ..targets import DEFAULT_TARGET
from ..targets.session import Session
from .calibrate import CONTEXTS, PROMPT_LENGTHS, measure
from .latency_target import LatencyTarget
from .opening import open_bundle
from .sampling import Sampling
from .selection import Selection, select
from .sequence import CHUNK, LiveSequence
from .table import LatencyTable
from .timings import Timings
from .tokenizer import Tokenizer

CALIBRATION = ("auto", "never", "always")

log = logging.getLogger(__name__)


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
        target: where it runs.
        layout, dtype: the target's own choice by default.
        budget: run this budget, whatever it costs; excludes a latency target.
        threads: thread setting of the target. On a busy machine one thread can be faster than two.
        low_memory: leave the weights in the mapped file instead of rearranging them in private memory: slower, but the
            pages are shared with other processes and can be dropped.
        best_effort: if no budget meets the target, run the one that comes closest instead of raising.
        verify_hashes: check the SHA-256 of every file in the bundle, not only sizes.
        context: tokens (prompt and answer) at which the target must hold; by default the longest that was measured.
        calibration: `auto` measures the budgets if this device has no table yet, `always` measures them now, `never`
            raises instead; or a table.
        chunk: tokens per prefill call.
        track: shows progress of a calibration.

    Attributes:
        bundle: the opened bundle.
        selection: which budget was picked, why, and what was rejected.
        table: the measurements it was picked by, or None.
        timings: of the latest generation.

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
        target: str = DEFAULT_TARGET,
        layout: str | None = None,
        dtype: str | None = None,
        budget: str | None = None,
        threads: int | None = None,
        low_memory: bool = False,
        best_effort: bool = False,
        verify_hashes: bool = True,
        context: int | None = None,
        calibration: str | LatencyTable = "auto",
        chunk: int = CHUNK,
        track: Track = silent,
    ) -> None:
        if latency_target is not None and budget is not None:
            raise InputError("A latency target and a budget were given.", fix="pass one of them")
        if not isinstance(calibration, LatencyTable) and calibration not in CALIBRATION:
            raise InputError(f"calibration {calibration!r} is none of {', '.join(CALIBRATION)}.")
        if chunk < 1 or (context is not None and context < 1):
            raise InputError(f"chunk {chunk} and context {context} must be at least 1.")
        self.latency_target = None if latency_target is None else LatencyTarget.parse(latency_target)
        self._opening = open_bundle(bundle, target, layout, dtype, threads, low_memory=low_memory, hashes=verify_hashes)
        self.bundle, self._chunk = self._opening.bundle, chunk
        self.table: LatencyTable | None = None
        self.timings = Timings()
        self._session: Session | None = None
        self._closed = False
        try:
            self.selection = self._select(budget, context, calibration, best_effort, track)
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def max_tokens(self) -> int:
        """Most tokens, prompt and answer together, that one generation may hold."""
        return self._opening.max_tokens(self._open())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer; InputError if it has none."""
        return Tokenizer(self.bundle.path)

    def generate(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop_on_eos: bool = True,
    ) -> Iterator[str]:
        """Generate text, piece by piece as it is decided. `timings` is complete when the iterator ends.

        Args:
            prompt: text, or token ids.
            max_new_tokens: stop after that many.
            temperature: 0 for the likeliest token each time.
            top_k: choose among the k likeliest only; 0 for all.
            top_p: choose among the likeliest that together have this probability.
            seed: the same seed, prompt and settings give the same text.
            stop_on_eos: stop at the model's end-of-text token, which is not part of the text.

        Raises:
            InputError: the prompt is empty or longer than the model holds, or a setting cannot be used.
        """
        ids = self._prompt(prompt)
        tokens = self.generate_ids(ids, max_new_tokens, temperature, top_k, top_p, seed, stop_on_eos)
        return self.tokenizer.stream(tokens, ids)

    def generate_ids(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop_on_eos: bool = True,
    ) -> Iterator[int]:
        """As `generate`, but token ids; works without a tokenizer if the prompt is ids and `stop_on_eos` is false."""
        ids = self._prompt(prompt)
        sampling = Sampling(temperature, top_k, top_p)
        sampling.validate()
        if max_new_tokens < 1:
            raise InputError(f"{max_new_tokens} new tokens are nothing to generate.", fix="ask for 1 or more")
        if seed is not None and seed < 0:
            raise InputError(f"The seed {seed} is negative.", fix="use 0 or more")
        eos = self.tokenizer.eos if stop_on_eos and self._has_tokenizer() else frozenset()
        self._open()
        return self._generate(ids, max_new_tokens, sampling, np.random.default_rng(seed), eos)

    def close(self) -> None:
        """Release the weights. Running generations end with an error."""
        if self._session is not None:
            self._session.close()
        self._session = None
        self._closed = True

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Session:
        if self._closed:
            raise InputError("The runner is closed.", fix="generate inside the `with` statement")
        if self._session is None:
            self._session = self._opening.session()
        return self._session

    def _select(
        self, budget: str | None, context: int | None, calibration: str | LatencyTable, best_effort: bool, track: Track
    ) -> Selection:
        budgets, architecture = self.bundle.budgets, self.bundle.architecture
        if budget is not None:
            return Selection(self.bundle.budget(budget), f"{budget} was asked for by name.")
        if self.latency_target is None:
            widest = max(budgets, key=lambda b: b.parameters(architecture))
            return Selection(widest, f"{widest.name} is the widest budget; there was no latency target.")
        self.table = self._find_table(context, calibration, track)
        return select(budgets, self.table, self.latency_target, context=context, best_effort=best_effort)

    @property
    def _calibrate_command(self) -> str:
        return f"flextron-export calibrate {self.bundle.path} {self._opening.options}"

    def _find_table(self, context: int | None, calibration: str | LatencyTable, track: Track) -> LatencyTable:
        if isinstance(calibration, LatencyTable):
            return calibration
        opening = self._opening
        if calibration != "always":
            device = opening.device()["id"]
            table = LatencyTable.load(self.bundle, device, opening.target, opening.layout, opening.dtype)
            if table is not None:
                if table.caution:
                    log.warning("%s Measure again: %s", table.caution, self._calibrate_command)
                return table
            how = f"{opening.target}, {opening.layout}, {opening.dtype}"
            what = f"{self.bundle.path} has no measurements of {how} on this device."
            if calibration == "never":
                raise InputError(what, fix=self._calibrate_command)
            log.warning("%s Measuring now; this takes some seconds, once.", what)
        contexts, prompts = [*CONTEXTS], [*PROMPT_LENGTHS]
        if context is not None and context > max(contexts):
            contexts.append(context)  # measured rather than extrapolated
        prompt = self.latency_target.prompt_length if self.latency_target else None
        if prompt is not None and prompt > max(prompts):
            prompts.append(prompt)
        return measure(opening, self._open(), contexts, prompts, track=track)

    def _generate(
        self, ids: list[int], count: int, sampling: Sampling, random: np.random.Generator, eos: frozenset[int]
    ) -> Iterator[int]:
        self.timings = timings = Timings(len(ids), target=self.latency_target)
        start = time.perf_counter()
        sequence = LiveSequence(self._open(), self.selection.budget, self.max_tokens, chunk=self._chunk)
        token = sampling.choose(sequence.prefill(ids), random)
        now = time.perf_counter()
        timings.first_token_ms = (now - start) * 1e3
        while True:
            timings.tokens += 1
            if token in eos:
                timings.stopped_by = "eos"
                return
            if timings.tokens >= count:
                timings.stopped_by = "length"
            elif sequence.length >= sequence.maximum:
                timings.stopped_by = "context"
            yield token
            if timings.stopped_by:
                return
            start = time.perf_counter()  # what the caller does with a token is not the model's time
            sequence.session = self._open()
            token = sampling.choose(sequence.decode(token), random)
            timings.token_ms.append((time.perf_counter() - start) * 1e3)

    def _has_tokenizer(self) -> bool:
        return (self.bundle.path / "tokenizer.json").is_file()

    def _prompt(self, prompt: str | Sequence[int]) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else [int(i) for i in prompt]
        vocabulary = self.bundle.architecture.vocab_size
        if not ids:
            raise InputError("The prompt is empty, and this tokenizer begins no text by itself.", fix="pass a prompt")
        if outside := [i for i in ids if not 0 <= i < vocabulary]:
            raise InputError(
                f"Token id {outside[0]} is outside the vocabulary of {vocabulary}.",
                cause="a tokenizer of another model",
                fix="use the tokenizer of the model that was exported",
            )
        if len(ids) > self.max_tokens:
            raise InputError(
                f"The prompt has {len(ids)} tokens; the cache holds at most {self.max_tokens}.",
                fix="shorten the prompt, and leave room for the answer",
            )
        return ids
