"""The last stage: model and routers trained together, the surrogate dropped (arXiv 2406.10260, Fig. 3).

Every step trains the full model and the model as routed at one target. Choices are straight-through samples; what
routers read carries no gradient, so the model learns the text and not to please its routers.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from ..errors import FlextronError
from .data import batches
from .environment import autocast, thread_count, training_attention
from .gumbel import by_sequence, straight_through
from .optimizer import Optimizer, cosine
from .progress import training_progress
from .routed_latency import RoutedLatency
from .router_loop import turns
from .router_loss import RouterOptimizer, router_terms
from .router_settings import RouterSettings
from .routers import Routers
from .routing import routed_pass
from .settings import TrainingSettings
from .stages import Stages, random_state, restore_random


def train_jointly(
    model: Any,
    routers: Routers,
    latency: RoutedLatency,
    tokens: np.ndarray,
    settings: TrainingSettings,
    router_settings: RouterSettings,
    *,
    stages: Stages | None = None,
    progress: bool = True,
) -> list[float]:
    """Train a model and its routers in place.

    Args:
        model: float32 weights.
        tokens: int64, read as one text.
        settings: of the model's training; its loss is the cross-entropy of the text, whatever `settings.loss` says.
        router_settings: weights and choices as they were at the end of the routers' own training; `tokens` counts the
            steps over which the routers' rate falls.
        stages: where the state of the stage `joint` is saved, and from where it goes on; default nowhere.

    Returns:
        The mean of both losses of every step, in nats per token.

    Raises:
        InputError: bad settings, a text shorter than a sequence, a state of another run or a damaged one, or a full
            disk.
        FlextronError: the loss is no longer a finite number; model and routers then are what they were.
    """
    settings.validate()
    router_settings.validate()
    torch.manual_seed(settings.seed)
    order = np.random.default_rng(settings.seed)
    data = batches(tokens, settings.batch, settings.length, order)
    optimizer = Optimizer(model, settings.optimizer, settings.learning_rate, settings.weight_decay)
    router_optimizer = RouterOptimizer(routers, router_settings)
    scale, temperature = router_settings.last_scale, router_settings.last_temperature
    losses: list[float] = []
    parts = (*optimizer.parts, router_optimizer)
    if stages and (state := stages.begun("joint")):
        model.load_state_dict(state["model"])
        routers.load_state_dict(state["routers"])
        for part, saved in zip(parts, state["optimizers"], strict=True):
            part.load_state_dict(saved)
        losses = list(state["losses"])
        restore_random(state["random"], order)
    before, begin = (copy.deepcopy(model.state_dict()), copy.deepcopy(routers.state_dict())), len(losses)

    def state_now() -> dict[str, Any]:
        return {
            "model": model.state_dict(),
            "routers": routers.state_dict(),
            "optimizers": [part.state_dict() for part in parts],
            "losses": losses,
            "random": random_state(order),
        }

    model.eval()  # no dropout, as in all training here
    with (
        thread_count(settings.threads),
        training_attention(model, settings.length),
        training_progress(
            "joint training", settings.steps, settings.batch * settings.length, progress, begin
        ) as report,
    ):
        below = [t for t in turns(routers.record.targets, 2 * settings.steps, settings.seed) if t < 1]
        for number in range(begin, settings.steps):
            target = below[number]
            ids = torch.from_numpy(next(data)).to(model.device)
            with autocast(model.device, settings.precision):
                logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            full = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
            (full / 2).backward()

            def use(z: torch.Tensor, sequences: int = len(ids)) -> torch.Tensor:
                return straight_through(scale * by_sequence(z, sequences), temperature)

            result = routed_pass(model, routers, target, ids, use, settings.precision)
            narrow = result.losses.mean()
            terms = router_terms(result, scale, latency, target, router_settings)
            (narrow / 2 + terms).backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            loss = (full.item() + narrow.item()) / 2
            if not math.isfinite(loss + terms.item() + norm.item()):
                model.load_state_dict(before[0])
                routers.load_state_dict(before[1])
                raise FlextronError(
                    f"Joint training diverged at step {number + 1} of {settings.steps}: "
                    f"the loss is {loss}, the norm of the gradient {norm.item():.3g}.",
                    cause=f"the learning rate {settings.learning_rate:g} is too high",
                    fix=f"try --joint-learning-rate {settings.learning_rate / 4:g}; with --resume the router's own "
                    "training is not repeated",
                )
            optimizer.step(cosine(number, settings.steps, settings.warmup_steps))
            router_optimizer.step(number)
            losses.append(loss)
            report(number + 1, loss)
            if stages:
                stages.save("joint", number + 1, settings.steps, state_now)
    return losses
