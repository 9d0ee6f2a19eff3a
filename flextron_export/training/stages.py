"""The states of a run of several stages in one process, such as the training of routers and the joint fine-tune."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from .state import States, last_state


class Stages:
    """What every stage saved last, in one state: a stage that is over stays in the states of the next.

    Args:
        states: their `about` holds all that makes it this run; the run goes on from the newest, if it is to.
    """

    def __init__(self, states: States) -> None:
        self._states, self._values = states, states.load_values() or {}

    def begun(self, stage: str) -> dict[str, Any] | None:
        """What a stage saved last before the run was interrupted; None if it had saved nothing."""
        value: dict[str, Any] | None = self._values.get(stage)
        return value

    def save(self, stage: str, step: int, steps: int, values: Callable[[], dict[str, Any]]) -> None:
        """Save the state of a stage if it is due: every so many steps, and after the last.

        Args:
            step: steps done.
            steps: of the whole stage.
            values: makes tensors, numbers, texts, lists and dictionaries.
        """
        last = bool(self._states.every) and step == steps
        if last or self._states.due(step, 0):
            self._values[stage] = {**values(), "step": step}
            with last_state() if last else nullcontext():
                self._states.save_values(sum(value["step"] for value in self._values.values()), self._values)


def random_state(order: np.random.Generator) -> dict[str, Any]:
    """The state of torch's generators and of another, in tensors and numbers."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "order": order.bit_generator.state,
    }


def restore_random(state: dict[str, Any], order: np.random.Generator) -> None:
    """The opposite of `random_state`."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    order.bit_generator.state = state["order"]
