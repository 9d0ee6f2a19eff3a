"""What the torch model computes: the references that graphs are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.golden import Reference
from ..bundle.manifest import Bundle
from ..elastic.checkpoint import ElasticCheckpoint
from ..elastic.model import load_model
from ..elastic.router import RoutedBudget
from ..elastic.tensors import tensor_specs
from ..elastic.widths import Budget
from ..errors import VerificationError, problems
from ..graph.quantization import SCALE
from ..progress import Track, silent
from .verify import BATCH, LENGTH, PROMPT, TOLERANCE

if TYPE_CHECKING:
    import torch


LOST = {"bf16": 1e-2, "int8": 2e-2, "int4": 0.25, "int8-fp16": 4e-2, "int4-fp16": 0.25, "fp8-fp16": 5e-2}
"""Largest allowed norm of what rounding took from a matrix, relative to the norm of the matrix."""


def torch_references(
    bundle: Bundle, source: ElasticCheckpoint, track: Track = silent
) -> dict[str, dict[str, Reference]]:
    """What every budget of a bundle must compute: precision -> budget -> reference.

    The reference is the float32 model; where matrices are quantised, and in bf16, with the weights as they are stored.

    Raises:
        VerificationError: the checkpoint's widths do not mean what they should, or rounding lost too much.
    """
    found: dict[str, dict[str, Reference]] = {}
    exact: dict[str, Reference] = {}
    for dtype in bundle.dtypes:
        if dtype in bundle.quantization or dtype == "bf16":
            found[dtype] = budget_references(load_as_stored(bundle, dtype, source), source, bundle.all_budgets, track)
        else:
            exact = exact or budget_references(load_model(source.path), source, bundle.all_budgets, track)
            found[dtype] = exact
    return found


def load_as_stored(bundle: Bundle, dtype: str, source: ElasticCheckpoint) -> Any:
    """The torch model of a checkpoint, computing in float32, with the weights that a bundle has in a precision.

    Raises:
        VerificationError: they are not those of the checkpoint, to the rounding.
    """
    import torch

    model = load_model(source.path)
    if dtype not in LOST:
        return model
    quantization = bundle.quantization.get(dtype)
    weights, parameters = bundle.weights(dtype), dict(model.named_parameters())
    found = []
    for spec in tensor_specs(bundle.architecture):
        values = weights[spec.name]
        if quantization and quantization.quantizes(spec):
            values = quantization.decode(spec, values, weights[spec.name + SCALE])
        stored = torch.from_numpy(np.array(values, np.float32))
        with torch.no_grad():
            exact = spec.take(parameters[spec.source])
            lost = float((stored - exact).norm() / exact.norm().clamp_min(1e-30))
            exact.copy_(stored)
        if not lost <= LOST[dtype]:
            found.append(f"{spec.name} differs by {lost:.0%} (allowed {LOST[dtype]:.0%})")
    problems(VerificationError, f"the weights in {dtype} are not those of the checkpoint", found[:4])
    return model


def budget_references(
    model: Any, source: ElasticCheckpoint, budgets: Sequence[Budget], track: Track = silent, *, seed: int = 0
) -> dict[str, Reference]:
    """Run a torch model at every budget: greedy continuations of random prompts, and logits at every position.

    A budget's model is sliced; that of a router at a target is masked, token by token, as it chooses.

    Raises:
        VerificationError: slicing and masking disagree, so the checkpoint's widths do not mean what they should.
    """
    import torch

    from ..elastic.model import masked, narrowed

    prompts = np.random.default_rng(seed).integers(0, source.architecture.vocab_size, (BATCH, PROMPT))
    found = {}
    with torch.inference_mode():
        for budget in track(list(budgets), "running the torch model"):
            if isinstance(budget, RoutedBudget) and budget.target < 1:
                found[budget.name] = _routed_reference(model, source, budget.target, prompts)
                continue
            with narrowed(model, source.architecture, budget):
                ids = _greedy(model, torch.from_numpy(prompts), LENGTH - PROMPT)
                logits = model(ids).logits.float()
            with masked(model, source.architecture, budget):
                difference = (model(ids).logits.float() - logits).abs().max() / logits.abs().max()
            if not difference <= TOLERANCE["fp32"]:
                raise VerificationError(
                    f"budget {budget.name}: the masked model differs from the sliced one by {difference:.1e} of the "
                    "largest logit."
                )
            found[budget.name] = _reference(ids, logits)
    return found


def _reference(ids: Any, logits: Any, choice_margin: Any = None) -> Reference:
    top = logits.topk(2, dim=-1).values
    return Reference(
        ids.numpy(),
        PROMPT,
        np.arange(logits.shape[-1]),
        logits.numpy(),
        (top[..., 0] - top[..., 1]).numpy(),
        float(logits.abs().max()) or 1.0,
        choice_margin,
    )


def _routed_reference(model: Any, source: ElasticCheckpoint, target: float, prompts: np.ndarray) -> Reference:
    """The model as its dynamic router chooses."""
    import torch

    from ..training.routers import Routers, one_hot
    from ..training.routing import routed

    router = source.router()
    assert router is not None
    routers = Routers(router.record, source.architecture)
    routers.read(router)
    of_target = routers.of(target)
    margins: list[torch.Tensor] = []

    def decide(layer: int, part: str, x: torch.Tensor) -> torch.Tensor:
        logits = of_target(layer, part, x)
        margins.append(relative_margin(logits))
        return one_hot(logits)

    with routed(model, source.architecture, source.candidates, decide):
        ids = _greedy(model, torch.from_numpy(prompts), LENGTH - PROMPT)
        margins.clear()
        logits = model(ids).logits.float()
    least = torch.stack(margins).amin(0).cummin(1).values
    return _reference(ids, logits, least.numpy())


def relative_margin(logits: Any) -> Any:
    """Best minus second best of a router's logits [..., candidates], relative to the largest; infinite for one."""
    if logits.shape[-1] == 1:
        return logits.new_full(logits.shape[:-1], float("inf"))
    top = logits.topk(2, dim=-1).values
    return (top[..., 0] - top[..., 1]) / logits.abs().amax(-1).clamp_min(1e-30)


def _greedy(model: Any, ids: Any, count: int) -> Any:
    # `generate` would stop at the end-of-text token; every sequence must have the same length here.
    import torch

    for _ in range(count):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids
