"""The loop that trains routers by either method, the model's weights frozen."""

from __future__ import annotations

import copy
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import FlextronError
from .data import batches
from .environment import thread_count, training_attention
from .gumbel import Gumbel
from .metrics import tensorboard
from .progress import training_progress
from .routed_latency import RoutedLatency
from .router_loss import StepResult, frozen
from .router_settings import RouterSettings
from .routers import Routers
from .stages import Stages, random_state, restore_random
from .surrogate import Surrogate


@dataclass(frozen=True)
class Trained:
    """What training routers did.

    Attributes:
        steps: one result per step.
        targets: the target of each step.
    """

    steps: tuple[StepResult, ...]
    targets: tuple[float, ...]

    @property
    def stepped(self) -> int:
        """Steps in which routers were changed."""
        return sum(step.norm is not None for step in self.steps)


def train_routers(
    model: Any,
    routers: Routers,
    latency: RoutedLatency,
    tokens: np.ndarray,
    held_out: np.ndarray,
    settings: RouterSettings,
    *,
    stages: Stages | None = None,
    metrics: str | Path | None = None,
    progress: bool = True,
) -> Trained:
    """Train routers in place, for the targets that `turns` gives. The model is not changed.

    Args:
        model: Hugging Face causal LM.
        latency: what choices cost.
        tokens: int64, read as one text.
        held_out: int64 [sequences, length], of other text; the surrogate's error is watched on the first of it.
        stages: where the state of the stage `routers` is saved, and from where it goes on; default nowhere.
        metrics: directory for TensorBoard: loss, latency and anchor, gradient norm, error of the surrogate.
        progress: show loss, speed and the time left on standard error.

    Raises:
        InputError: bad settings, a text shorter than a sequence, a target that no widths reach, a state of another run
            or a damaged one, or a full disk.
        FlextronError: the loss is no longer a finite number; the routers then are what they were.
    """
    settings.validate()
    latency.check_targets(routers.record.targets)
    torch.manual_seed(settings.seed)
    order = np.random.default_rng(settings.seed)
    data = batches(tokens, settings.batch, settings.length, order)
    trained: list[StepResult] = []
    chosen = turns(routers.record.targets, settings.steps, settings.seed)
    state = stages.begun("routers") if stages else None
    if state is not None:
        routers.load_state_dict(state["routers"])
        trained = [StepResult(*step) for step in state["trained"]]
    before, begin = copy.deepcopy(routers.state_dict()), len(trained)
    was_training = model.training
    model.eval()  # dropout would be noise in what a choice costs
    try:
        with (
            frozen(model),
            thread_count(settings.threads),
            training_attention(model, settings.length),
            tensorboard(metrics, begin) as write,
            training_progress("routers", settings.steps, settings.batch * settings.length, progress, begin) as report,
        ):
            method: Gumbel | Surrogate
            if settings.method == "gumbel":
                method = Gumbel(model, routers, latency, settings)
            else:
                watched = torch.from_numpy(held_out[: settings.batch, : settings.length + 1]).to(model.device)
                method = Surrogate(model, routers, latency, settings, watched)

            def state_now() -> dict[str, Any]:
                return {
                    "routers": routers.state_dict(),
                    "trained": [astuple(step) for step in trained],
                    "method": method.state_dict(),
                    "random": random_state(order),
                }

            if state is not None:
                method.load_state_dict(state["method"])
                restore_random(state["random"], order)
            for number in range(begin, settings.steps):
                target = chosen[number]
                ids = torch.from_numpy(next(data)).to(model.device)
                step = method.step(ids, target, number)
                if not step.finite:
                    routers.load_state_dict(before)
                    raise FlextronError(
                        f"Training the routers diverged at step {number + 1} of {settings.steps}: "
                        f"the loss is {step.loss}, with latency {step.loss + step.terms}, the gradient {step.norm}.",
                        cause="the model's weights are not finite, or the learning rate is too high",
                        fix=f"verify the checkpoint, or try --learning-rate {settings.learning_rate / 4:g}",
                    )
                trained.append(step)
                report(number + 1, step.loss)
                write(number + 1, step.values())
                if stages:
                    stages.save("routers", number + 1, settings.steps, state_now)
    finally:
        model.train(was_training)
    return Trained(tuple(trained), tuple(chosen))


def turns(targets: tuple[float, ...], steps: int, seed: int) -> list[float]:
    """The target of every step: in turn a trained one, each as often as the others, and one anywhere between them.

    What is between is answered by blends of the trained targets' codes, which only mean something if they are trained.
    """
    random = np.random.default_rng(seed)
    order: list[float] = []
    while len(order) < steps:
        for i in random.permutation(len(targets)):
            order += [targets[i], float(random.uniform(targets[-1], targets[0]))]
    return order[:steps]
