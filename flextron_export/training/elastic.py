"""Training: one loop for a plain model and for an elastic one, in one process or in many.

An elastic step trains several sub-networks on one batch and adds up their gradients (elastic continued training, arXiv
2406.10260); `sampling` draws them. Devices and processes are Hugging Face accelerate's business.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.model import narrowed
from ..elastic.widths import Budget, full_budget
from ..errors import FlextronError, InputError
from .data import batches
from .distribution import (
    check_accelerator,
    configured_precision,
    device_of,
    make_accelerator,
    mean_over_processes,
    sharded,
    share,
)
from .environment import autocast, enough_memory, thread_count, training_attention, without_dropout
from .metrics import tensorboard
from .optimizer import Optimizer, cosine
from .progress import training_progress
from .sampling import Sampler, full_only, full_smallest_random
from .settings import LOSSES, TrainingSettings
from .state import Position, States, last_state

if TYPE_CHECKING:
    import torch

__all__ = ["LOSSES", "Sampler", "TrainingSettings", "full_only", "full_smallest_random", "train"]

SNAPSHOT_EVERY = 20
"""Steps between copies of the weights, which are what is left if the loss stops being a number."""


@enough_memory("training", "pass a smaller --batch or --length, a larger --accumulate, or --recompute")
def train(
    model: Any,
    architecture: Architecture,
    tokens: np.ndarray,
    settings: TrainingSettings,
    budgets: Sampler,
    *,
    teacher: Any = None,
    accelerator: Any = None,
    states: States | None = None,
    metrics: str | Path | None = None,
    progress: bool = True,
    description: str = "training",
) -> list[float]:
    """Train a Hugging Face causal LM in place.

    In one process the model is trained on the device where it is. Under a launcher every process calls this with the
    same arguments and computes its share of each batch; with FSDP only the main process then has the new weights.

    Args:
        model: float32 weights.
        tokens: integers of any shape, read as one text; may be memory-mapped.
        budgets: draws the sub-networks of each step; see `sampling`.
        teacher: the frozen original, needed by the losses `distill` and `mix`; whole in every process.
        accelerator: accelerate.Accelerator; default `distribution.make_accelerator`.
        states: where the state is saved, and from where the run goes on; default nowhere.
        metrics: directory for TensorBoard: loss of every sub-network, learning rate, gradient norm, tokens per second.
        progress: show loss, speed and the time left on standard error.

    Returns:
        The mean loss over the sub-networks of every step, in nats per token; of steps before an interruption too.

    Raises:
        InputError: bad settings, a text shorter than a sequence, a state of another run or a damaged one, a full disk,
            or too little memory.
        FlextronError: the loss is no longer a finite number; the model then has its last good weights.
    """
    import torch

    settings.validate()
    if settings.loss != "ce" and teacher is None:
        raise InputError(
            f"The loss {settings.loss!r} needs a teacher.",
            fix="pass the original model as teacher, or use the loss 'ce'",
        )
    accelerator = accelerator or make_accelerator()
    check_accelerator(accelerator, settings)
    device, main = device_of(accelerator, model), accelerator.is_main_process
    # FSDP takes a model apart for good, so it gets one of its own.
    core = copy.deepcopy(model) if sharded(accelerator) else model.to(device)
    if teacher is not None:
        teacher = teacher.to(device)
    optimizer = Optimizer(core, settings.optimizer, settings.learning_rate, settings.weight_decay)
    run = optimizer.prepare(accelerator, core)
    parameters = list(run.parameters())
    start = states.restore(settings, accelerator, run, optimizer.parts) if states else Position()
    losses = list(start.losses)
    random, order = (np.random.default_rng(settings.seed) for _ in range(2))
    if start.random:
        random.bit_generator.state, order.bit_generator.state = start.random["budgets"], start.random["data"]
    data = batches(tokens, settings.batch, settings.length, order)
    run.train()
    with (
        thread_count(settings.threads),
        without_dropout(core),
        training_attention(core, settings.length),
        _recomputation(core, settings.recompute),
        tensorboard(metrics if main else None, start.step) as write,
        training_progress(
            description, settings.steps, settings.batch * settings.length, progress and main, start.step
        ) as report,
    ):
        good: list[torch.Tensor] = []
        for step in range(start.step, settings.steps):
            began = time.perf_counter()
            before = {"budgets": random.bit_generator.state, "data": order.bit_generator.state}
            chosen, ids = budgets(random), share(accelerator, torch.from_numpy(next(data))).to(device)
            parts = mean_over_processes(
                accelerator, _accumulate(run, core, architecture, ids, chosen, teacher, settings, accelerator)
            )
            loss = float(np.mean(parts))
            norm = float(accelerator.clip_grad_norm_(parameters, settings.clip))
            if not (np.isfinite(loss) and np.isfinite(norm)):
                optimizer.clear()
                if good:
                    _restore(parameters, good)
                raise _diverged(step, settings, loss, norm, states)
            if states and states.due(step, start.step):
                states.save(settings, accelerator, run, optimizer.parts, Position(step, losses, before))
            if (step - start.step) % SNAPSHOT_EVERY == 0:
                good = [p.detach().clone() for p in parameters]
            scale = cosine(step, settings.steps, settings.warmup_steps)
            optimizer.step(scale)
            losses.append(loss)
            report(step + 1, loss)
            write(
                step + 1,
                {
                    **{f"loss/{b.name}": part for b, part in zip(chosen, parts, strict=True)},
                    "loss/mean": loss,
                    "learning_rate": scale * settings.learning_rate,
                    "gradient_norm": norm,
                    "tokens_per_second": settings.batch * settings.length / (time.perf_counter() - began),
                },
            )
        if states and states.every and settings.steps > start.step:
            after = {"budgets": random.bit_generator.state, "data": order.bit_generator.state}
            with last_state(alone=accelerator.num_processes == 1):
                states.save(settings, accelerator, run, optimizer.parts, Position(settings.steps, losses, after))
    if sharded(accelerator):
        whole = accelerator.get_state_dict(run)
        if main:
            model.load_state_dict(whole)
    model.eval()
    return losses


def _accumulate(
    run: Any,
    core: Any,
    architecture: Architecture,
    ids: torch.Tensor,
    budgets: Sequence[Budget],
    teacher: Any,
    settings: TrainingSettings,
    accelerator: Any,
) -> torch.Tensor:
    """Add the gradient of the weighted mean loss over the sub-networks, one pass at a time; return the loss of each.

    Args:
        run: the model as accelerate prepared it, which is called.
        core: the same without its wrappers, which is narrowed.
        ids: int64 [sequences, length + 1], this process's share of the batch.
    """
    import torch

    precision = "bf16" if configured_precision() == "bf16" else settings.precision
    full = full_budget(architecture).layers
    weights = [settings.full_weight if budget.layers == full else 1.0 for budget in budgets]
    losses = torch.zeros(len(budgets), device=ids.device)
    pieces = ids.chunk(settings.accumulate)
    for p, piece in enumerate(pieces):
        inputs, targets = piece[:, :-1], piece[:, 1:].flatten()
        original = None
        if settings.loss != "ce":
            with torch.no_grad(), training_attention(teacher, settings.length), autocast(ids.device, precision):
                original = teacher(input_ids=inputs, use_cache=False).logits.flatten(0, 1).float().log_softmax(-1)
        for b, budget in enumerate(budgets):
            # DDP adds up over the processes once, in the last pass. FSDP does in every pass: keeping whole gradients
            # until the last would take the memory that sharding is there to save.
            last = (p, b) == (len(pieces) - 1, len(budgets) - 1)
            with (
                nullcontext() if last or sharded(accelerator) else accelerator.no_sync(run),
                narrowed(core, architecture, budget),
            ):
                with autocast(ids.device, precision):
                    logits = run(input_ids=inputs, use_cache=False).logits.flatten(0, 1).float()
                    loss = _loss(logits, targets, original, settings.loss)
                # Still narrowed: with gradient checkpointing the backward pass runs the forward again.
                accelerator.backward(loss / (sum(weights) / weights[b] * len(pieces)))
            losses[b] += loss.detach() / len(pieces)
    return losses


def _loss(logits: torch.Tensor, targets: torch.Tensor, original: torch.Tensor | None, kind: str) -> torch.Tensor:
    from torch.nn.functional import cross_entropy, kl_div, log_softmax

    if original is None:
        return cross_entropy(logits, targets)
    divergence = kl_div(log_softmax(logits, -1), original, reduction="batchmean", log_target=True)
    return divergence if kind == "distill" else (divergence + cross_entropy(logits, targets)) / 2


@contextmanager
def _recomputation(model: Any, enabled: bool) -> Iterator[None]:
    """Within the block, the model keeps one activation per layer and computes the rest again in the backward pass."""
    if not enabled:
        yield
        return
    # The same under its new and its old name.
    enable, disable = (
        getattr(model, f"activation_checkpointing_{verb}", None) or getattr(model, f"gradient_checkpointing_{verb}")
        for verb in ("enable", "disable")
    )
    enable({"use_reentrant": False})
    try:
        yield
    finally:
        disable()
        model.disable_input_require_grads()


def _restore(parameters: list[Any], saved: list[Any]) -> None:
    import torch

    with torch.no_grad():
        for parameter, value in zip(parameters, saved, strict=True):
            parameter.copy_(value)


def _diverged(step: int, settings: TrainingSettings, loss: float, norm: float, states: States | None) -> FlextronError:
    fix = f"try --learning-rate {settings.learning_rate / 4:g}"
    if states and (kept := states.all()):
        fix += f"; with --resume it goes on from {kept[-1]}"
    return FlextronError(
        f"Training diverged at step {step + 1} of {settings.steps}: "
        f"the loss is {loss}, the norm of the gradient {norm:.3g}.",
        cause=f"the learning rate {settings.learning_rate:g} is too high, or the weights were not finite",
        fix=fix,
    )
