"""The state of an unfinished run on disk: what a killed run needs to go on as if nothing had happened.

A state is taken before a step changes the weights, once its loss was seen to be finite, and after the last step, so
every state is a good one. It is written beside its place and renamed, and the one before it is removed only then.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from ..errors import InputError, problems
from ..files import MALFORMED, new_directory, read_object, write_json
from .settings import TrainingSettings

log = logging.getLogger(__name__)

MARKER = "state.json"
VALUES = "values.pt"
FREE = ("learning_rate", "weight_decay", "clip", "precision", "threads", "accumulate", "recompute")
"""Settings that may be others when a run goes on: they change how it goes on, not what was done."""


@dataclass(frozen=True)
class Position:
    """How far a run is.

    Attributes:
        step: steps done.
        losses: the mean loss of each.
        random: state of the random generators of data and sub-networks before the next step.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    random: dict[str, Any] = field(default_factory=dict)


class States:
    """The states of one run, in a directory of its own: the newest, and nothing else between two saves.

    With several processes on several machines, all of them must see the directory. `save` and `restore` are for models
    that accelerate distributes, `save_values` and `load_values` for anything small in one process.

    Args:
        directory: made when first needed.
        every: steps between two states; 0 saves none, not even the last.
        about: what beside the settings makes it this run (JSON): another value and the run is refused.
        resume: start at the newest state, if there is one.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        every: int,
        about: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        if every < 0:
            raise InputError(f"A state every {every} steps cannot be saved.", fix="pass 0 for none, or more")
        self.directory, self.every, self.about, self.resume = Path(directory), every, dict(about or {}), resume

    def all(self) -> list[Path]:
        """The states, oldest first."""
        return sorted(path.parent for path in self.directory.glob(f"step-*/{MARKER}"))

    def due(self, step: int, start: int) -> bool:
        """Whether the state after so many steps is to be saved in a run that began at `start`."""
        return bool(self.every) and step % self.every == 0 and step > start

    def check(self, settings: TrainingSettings | None) -> Mapping[str, Any] | None:
        """The newest state's record if the run is to go on from one, else None.

        Raises:
            InputError: it belongs to a run with other settings; all differences are named.
        """
        if not self.resume or not self.all():
            return None
        path = self.all()[-1]
        record = read_object(path / MARKER, InputError, fix=f"remove {path}")
        before, now = record.get("run", {}), self._run(settings)
        found = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        problems(
            InputError,
            f"the run in {self.directory} cannot go on with other settings",
            found,
            fix="pass the settings it was started with, or start anew without --resume",
        )
        return record

    def restore(self, settings: TrainingSettings, accelerator: Any, model: Any, optimizers: Sequence[Any]) -> Position:
        """Load the newest state into model and optimisers, if the run is to go on from one; return how far it was.

        Raises:
            InputError: it belongs to a run with other settings, or is damaged.
        """
        from torch.distributed import checkpoint
        from torch.distributed.checkpoint.state_dict import set_state_dict

        if (record := self.check(settings)) is None:
            return Position()
        path, (weights, moments) = self.all()[-1], _tensors(model, optimizers)
        try:
            position = Position(record["step"], record["losses"], record["random"])
            with warnings.catch_warnings(action="ignore"):
                checkpoint.load(
                    {"model": weights, "optimizer": moments},
                    checkpoint_id=str(path),
                    no_dist=accelerator.num_processes == 1,
                )
        except (OSError, EOFError, RuntimeError, UnpicklingError, *MALFORMED, checkpoint.CheckpointException) as error:
            raise _damaged(path, error) from error
        with warnings.catch_warnings(action="ignore"):
            set_state_dict(model, optimizers, model_state_dict=weights, optim_state_dict=moments)
        return position

    def save(
        self,
        settings: TrainingSettings,
        accelerator: Any,
        model: Any,
        optimizers: Sequence[Any],
        position: Position,
    ) -> None:
        """Write a state, then remove the older ones. All processes call it.

        Raises:
            InputError: it cannot be written, for instance as the disk is full; the state before it is still there.
        """
        from accelerate.utils import broadcast_object_list
        from torch.distributed import checkpoint

        older, path = self.all(), self._path(position.step)
        with ExitStack() as stack:
            place: list[Any] = [None]
            if accelerator.is_main_process:
                place = [str(stack.enter_context(new_directory(path, marker=MARKER, overwrite=True)))]
            broadcast_object_list(place)
            weights, moments = _tensors(model, optimizers)
            try:
                with warnings.catch_warnings(action="ignore"):
                    checkpoint.save(
                        {"model": weights, "optimizer": moments},
                        checkpoint_id=place[0],
                        no_dist=accelerator.num_processes == 1,
                    )
            except checkpoint.CheckpointException as error:
                raise _unwritten(path, error) from error
            if accelerator.is_main_process:
                write_json(Path(place[0]) / MARKER, {**asdict(position), "run": self._run(settings)})
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            remove(older)

    def save_values(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a state of one process, then remove the older ones. `about` alone says what run it is.

        Args:
            values: tensors, numbers, texts, lists and dictionaries.

        Raises:
            InputError: it cannot be written; the state before it is still there.
        """
        import torch

        older, path = self.all(), self._path(step)
        with new_directory(path, marker=MARKER, overwrite=True) as place:
            try:
                torch.save(dict(values), place / VALUES)
            except RuntimeError as error:  # of torch's writer, which keeps nothing of what the system said
                raise _unwritten(path, error) from error
            write_json(place / MARKER, {"step": step, "run": self._run(None)})
        remove(p for p in older if p != path)

    def load_values(self) -> dict[str, Any] | None:
        """What `save_values` wrote last, on the CPU, if the run is to go on from it.

        Raises:
            InputError: it belongs to a run with other settings, or is damaged.
        """
        import torch

        if self.check(None) is None:
            return None
        path = self.all()[-1]
        try:
            values: dict[str, Any] = torch.load(path / VALUES, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, UnpicklingError, *MALFORMED) as error:
            raise _damaged(path, error) from error
        return values

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:09d}"

    def _run(self, settings: TrainingSettings | None) -> dict[str, Any]:
        run = {**(fixed(settings) if settings else {}), **self.about}
        return dict(json.loads(json.dumps(run)))  # as it comes back from the disk


def fixed(settings: Any) -> dict[str, Any]:
    """The settings that a run must go on with."""
    return {name: value for name, value in asdict(settings).items() if name not in FREE}


@contextmanager
def last_state(*, alone: bool = True) -> Iterator[None]:
    """Within the block the state after the last step is saved; if it cannot be, that is said and the run ends well.

    Args:
        alone: this is the only process; with others, which wait for this one, the run ends here.
    """
    try:
        yield
    except InputError as error:
        if not alone:
            raise
        log.warning("%s The result is written nevertheless.", error.what)


def remove(states: Iterable[Path]) -> None:
    """Remove states; each stops being one before its parts go."""
    for path in states:
        (path / MARKER).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError(
        f"The state {path} is damaged: {type(_reason(error)).__name__} {_reason(error)}.", fix=f"remove {path}"
    )


def _unwritten(path: Path, error: Any) -> InputError:
    # What the system said is lost on the way through torch's writer, so the disk itself is asked.
    reason = _reason(error)
    return InputError(
        f"The state {path} was not written: {type(reason).__name__} {reason}; the state before it is unchanged.",
        cause=f"the disk is full: {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free; or this user may not "
        "write so large a file (see ulimit -f)",
        fix="free some space and go on with --resume, or pass another directory to --work",
    )


def _reason(error: Any) -> BaseException:
    """What a process said, of an error of torch.distributed.checkpoint; else the error itself."""
    reason: BaseException = next(iter(getattr(error, "failures", {}).values()), (error,))[0]
    return reason


def _tensors(model: Any, optimizers: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and optimiser states under the names of the plain model, however it is distributed; no copies."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    with warnings.catch_warnings(action="ignore"):
        return get_state_dict(model, optimizers)
