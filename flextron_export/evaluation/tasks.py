"""Tasks of lm-evaluation-harness: finding them, getting their data, and the scores of a budget."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from ..errors import InputError, problems
from ..progress import Track, silent
from .harness import FlextronLM

# After `harness`, which says what to install if the library is missing.
from lm_eval import simple_evaluate  # isort: skip
from lm_eval.tasks import TaskManager  # isort: skip

UNREACHABLE = ("ConnectionError", "DatasetNotFoundError", "OfflineModeIsEnabled", "LocalEntryNotFoundError")
"""Errors of `datasets` and `huggingface_hub` that mean: not on this machine, and not to be had."""
BOOTSTRAP = 1000
"""Resamples for the standard error of scores that are no plain means, such as perplexity."""


class Tasks:
    """Loaded tasks, ready to score budget after budget.

    Args:
        names: tasks, groups and tags that the harness knows, with * for any letters, and paths of YAML files.
        track: shows progress.

    Raises:
        InputError: a name is unknown, a task cannot be loaded, or its data are not to be had; every one is named.
    """

    def __init__(self, names: Sequence[str], track: Track = silent) -> None:
        if not names:
            raise InputError("No task was named.", fix="name some, such as arc_easy, or the path of a YAML file")
        files = {name: Path(name) for name in names if name.endswith((".yaml", ".yml"))}
        missing = [f"there is no task file {name}" for name, path in files.items() if not path.is_file()]
        problems(InputError, "these tasks cannot be scored", missing, fix="check the paths")
        # Its own tasks are thousands of files, which a user's task files do without.
        own = len(files) < len(names)
        for _ in track([own], "reading the harness's own tasks (up to a minute)") if own else [own]:
            self._manager = TaskManager(include_defaults=own)
        self._tasks: list[Any] = []
        unreachable: list[str] = []
        other: list[str] = []
        for name in self._matched(names, files):
            try:
                loaded = self._manager.load([name])
            except Exception as error:  # tasks run code of their own
                if _unreachable(error):
                    unreachable.append(name)
                else:
                    other.append(f"{name}: {type(error).__name__} {error}")
                continue
            group = loaded["groups"].get(name)
            self._tasks += [group] if group is not None else list(loaded["tasks"].values())
        self._refuse(unreachable)
        problems(InputError, "these tasks cannot be loaded", other)

    def score(
        self, lm: FlextronLM, *, limit: int | None = None, num_fewshot: int | None = None, samples: bool = False
    ) -> dict[str, Any]:
        """Score a budget.

        Args:
            limit: documents of each task, its first; all by default.
            num_fewshot: examples in front of every question, where a task does not fix it.
            samples: keep every document and answer.

        Returns:
            The harness's results; see `metrics`.
        """
        with _alone():
            found: dict[str, Any] = simple_evaluate(
                model=lm,
                tasks=self._tasks,
                num_fewshot=num_fewshot,
                limit=limit,
                bootstrap_iters=BOOTSTRAP,
                log_samples=samples,
                task_manager=self._manager,
            )
        return found

    def _matched(self, names: Sequence[str], files: dict[str, Path]) -> list[str]:
        """Names without *, each once; InputError names those that nothing matches."""
        matched: dict[str, None] = {}
        found = []
        for name in names:
            known = [name] if name in files else self._manager.match_tasks([name])
            if not known:
                near = difflib.get_close_matches(name, self._manager.all_tasks, 3)
                found.append(f"{name!r}" + (f" (did you mean {', '.join(near)}?)" if near else ""))
            matched.update(dict.fromkeys(known))
        problems(
            InputError,
            "lm-evaluation-harness has no such task",
            found,
            fix="`lm-eval ls tasks` lists them; a task of your own is the path of a YAML file",
        )
        return list(matched)

    def _refuse(self, unreachable: Sequence[str]) -> None:
        if not unreachable:
            return
        about = [f"{name} ({', '.join(sorted(self._datasets(name))) or 'unknown data set'})" for name in unreachable]
        home = os.environ.get("HF_HOME", "~/.cache/huggingface")
        load = f"from lm_eval.tasks import TaskManager; TaskManager().load({list(unreachable)!r})"
        raise InputError(
            f"The data of these tasks are not on this machine and cannot be downloaded: {'; '.join(about)}.",
            cause=f"huggingface.co cannot be reached from here, and the data are not in {home}",
            fix=f'with a network, run python -c "{load}" and copy its ~/.cache/huggingface to this machine; then set '
            "HF_HOME to the copy, HF_HUB_OFFLINE=1 and HF_DATASETS_OFFLINE=1, and repeat this command",
        )

    def _datasets(self, name: str) -> set[str]:
        """Hub names of the data sets that a task, group or tag reads."""
        entry = self._manager.task_index.get(name)
        if entry is None:
            return set()
        config = entry.cfg or {}
        if isinstance(config.get("dataset_path"), str):
            return {" ".join(filter(None, (config["dataset_path"], config.get("dataset_name"))))}
        children = config.get("task")
        children = children if isinstance(children, list) else entry.tags
        names = [child.get("task") if isinstance(child, dict) else child for child in children]
        return {found.split(" ")[0] for child in names if isinstance(child, str) for found in self._datasets(child)}


def metrics(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Task or group -> metric -> value, standard errors as `<metric>_stderr`, from the harness's results."""
    found: dict[str, dict[str, float]] = {}
    for task, values in results["results"].items():
        found[task] = {
            key.removesuffix(",none"): float(value)
            for key, value in values.items()
            if isinstance(value, (int, float)) and "," in key
        }
    return found


@contextmanager
def _alone() -> Iterator[None]:
    """Within the block the harness starts no processes, and what it prints goes to standard error.

    It would fork to resample, which a process with running threads or a GPU may not survive.
    """
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _unreachable(error: BaseException) -> bool:
    """Whether it, or what led to it, says that data could not be had."""
    seen: list[BaseException] = []
    next_: BaseException | None = error
    while next_ is not None and next_ not in seen:
        seen.append(next_)
        next_ = next_.__cause__ or next_.__context__
    return any(kind.__name__ in UNREACHABLE for e in seen for kind in type(e).__mro__)
