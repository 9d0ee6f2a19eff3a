"""The verb `evaluate`: perplexity and task scores of the budgets of a checkpoint or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..elastic.widths import Budget
from ..errors import InputError
from ..progress import Track, silent
from ..runtime.tokenizer import Tokenizer
from .perplexity import Perplexity, Text, perplexity
from .subject import open_subject

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .subject import Subject, Where


@dataclass(frozen=True)
class Scores:
    """How good a budget is.

    Attributes:
        parameters: active ones, without embeddings.
        text: on the text, if one was given.
        tasks: task -> metric -> value; standard errors are `<metric>_stderr`.
    """

    budget: Budget
    parameters: int
    text: Perplexity | None = None
    tasks: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"budget": self.budget.name, "parameters": self.parameters}
        if self.text is not None:
            value["text"] = {
                "perplexity": self.text.perplexity,
                "nats_per_token": self.text.nats_per_token,
                "bits_per_byte": self.text.bits_per_byte,
                "tokens": self.text.tokens,
                "seconds": round(self.text.seconds, 3),
            }
        return {**value, "tasks": self.tasks}


@dataclass(frozen=True)
class Evaluation:
    """Scores of every budget, widest first, and what computed them (see `Subject.about`)."""

    path: Path
    about: dict[str, Any]
    scores: tuple[Scores, ...]

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), **self.about, "budgets": [s.to_json() for s in self.scores]}


def evaluate(
    path: str | Path,
    *,
    text: Sequence[str | Path] = (),
    text_field: str = "text",
    tasks: Sequence[str] = (),
    budgets: Sequence[str] = (),
    length: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch: int | None = None,
    track: Track = silent,
    **where: Unpack[Where],
) -> Evaluation:
    """Score budgets on a text, on tasks of lm-evaluation-harness, or both.

    Args:
        path: an elastic checkpoint, computed by torch, or a bundle, run on a target.
        text: text files, JSONL files or data sets to predict; see `training.sources.read_parts`.
        text_field: field that holds the text in JSONL files and data sets.
        tasks: names that the harness knows, or paths of task files; see `Tasks`.
        budgets: names; all by default.
        length, stride: tokens that a window of the text reads, and between the starts of two windows; see `Text`.
        max_tokens: predict only that many tokens of the text, its first.
        limit: documents of each task, its first; all by default.
        num_fewshot: examples in front of every question, where a task does not fix it.
        batch: most sequences in a call; chosen by their length by default.
        track: shows progress.
        where: target, layout, dtype, threads, low_memory, device: see `open_subject`.

    Raises:
        InputError: there is nothing to score, or an argument cannot be used.
        CheckpointError, BundleError, TargetError: it cannot be opened, or has no such budget.
        MissingDependencyError: a library is not installed.
        FlextronError: the model computes something that is no number.
    """
    if not text and not tasks:
        raise InputError("There is nothing to score.", fix="pass --text FILE, --tasks NAMES, or both")
    for name, value in (("batch", batch), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"A {name} of {value} makes no sense.", fix="use 1 or more, or leave it out")
    loaded = None
    if tasks:  # what is missing is found out before a model is loaded
        from .tasks import Tasks

        loaded = Tasks(tasks, track)
    with closing(open_subject(path, **where)) as subject:
        chosen = [subject.budget(name) for name in dict.fromkeys(budgets)] or list(subject.budgets)
        read = None
        if text:
            read = Text.read(
                text,
                Tokenizer(subject.path),
                subject.max_length,
                length=length,
                stride=stride,
                limit=max_tokens,
                field=text_field,
            )
        scores = []
        for budget in sorted(chosen, key=lambda b: -b.parameters(subject.architecture)):
            on_text = None if read is None else perplexity(subject, budget, read, batch=batch, track=track)
            on_tasks = {}
            if loaded is not None:
                on_tasks = _score_tasks(subject, budget, loaded, limit, num_fewshot, batch, track)
            scores.append(Scores(budget, budget.parameters(subject.architecture), on_text, on_tasks))
        return Evaluation(subject.path, subject.about(), tuple(scores))


def _score_tasks(
    subject: Subject,
    budget: Budget,
    tasks: Any,
    limit: int | None,
    num_fewshot: int | None,
    batch: int | None,
    track: Track,
) -> dict[str, dict[str, float]]:
    from .harness import FlextronLM
    from .tasks import metrics

    lm = FlextronLM(subject, budget.name, batch_size=batch)
    found: dict[str, dict[str, float]] = {}
    for _ in track([budget], f"{budget.name}: tasks"):
        found = metrics(tasks.score(lm, limit=limit, num_fewshot=num_fewshot))
    return found
