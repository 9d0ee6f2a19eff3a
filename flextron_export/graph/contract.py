"""The graph contract: names and shapes of every input and output, for every layout. Pure functions, no ONNX needed.

Inputs: `ids` and `positions` [B, S], `write` [B] (cache slot of each sequence's first token), `rows` [N] (flattened
token positions whose logits are wanted), all int64; KV caches `k.{layer}` and `v.{layer}` [B, groups, capacity,
head_dim].
Outputs: `logits` [N, vocab] and the caches, `k.{layer}.out` and `v.{layer}.out`, meant to be the same buffers.
Layout `shared` adds the weights as inputs, `panels` the int64 inputs `groups` and `neurons` [layers]: the index of each
layer's candidate width; `routed` adds `target` float32 [B, trained targets]: every sequence's latency target, encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..elastic.architecture import Architecture
from ..elastic.router import RoutedBudget, encode
from ..elastic.tensors import tensor_specs
from ..elastic.widths import Budget, Candidates

if TYPE_CHECKING:
    from .quantization import Quantization

LAYOUTS = ("panels", "shared", "per-budget")
"""Layouts whose graphs run budgets."""
ROUTED = "routed"
"""The layout whose graph runs a dynamic router: every token chooses its widths."""
ALL_LAYOUTS = (*LAYOUTS, ROUTED)
DTYPES = {
    "fp32": "F32",
    "fp16": "F16",
    "bf16": "BF16",
    "int8": "F32",
    "int4": "F32",
    "int8-fp16": "F16",
    "int4-fp16": "F16",
    "fp8-fp16": "F16",
}
"""precision of a bundle -> safetensors dtype of caches, of what is computed and of weights that are not quantised."""
BITS = {"int8": 8, "int4": 4, "int8-fp16": 8, "int4-fp16": 4, "fp8-fp16": 8}
"""precision with quantised matrices -> bits of a weight."""
DEFAULT_DTYPES = ("fp32", "fp16")
"""Precisions that are exported unless others are asked for."""

OPSET = 24
MICROSOFT = "com.microsoft"
"""ONNX domain of ONNX Runtime's own operators."""
CACHE_NAMES = ("k", "v")
TARGET_INPUT = "target"
PROMPT_ROUTER = "router.onnx"
PROMPT_INPUT = "prompt"
CHOICES = ("groups", "neurons")


@dataclass(frozen=True)
class StepShape:
    """Sizes of one call: sequences, tokens per sequence, cache slots, rows of logits."""

    batch: int
    length: int
    capacity: int
    rows: int = 1


def layouts_of(dtype: str) -> tuple[str, ...]:
    """The layouts that a precision exists in.

    Groups of 4 bits must be constants for TensorRT, and all quantised matrices for the fast kernels of ONNX Runtime on
    CPU, which round tokens to 8 bits, after which a router chooses otherwise now and then.
    """
    if dtype == "bf16":
        return LAYOUTS
    if dtype in BITS and DTYPES[dtype] == "F32":
        return ("panels", "per-budget")
    return tuple(layout for layout in ALL_LAYOUTS if layout != "shared" or BITS.get(dtype) != 4)


def cache_names(architecture: Architecture) -> list[str]:
    """Cache inputs in graph order; each output is the input's name with `.out` behind it."""
    return [f"{name}.{i}" for i in range(architecture.num_layers) for name in CACHE_NAMES]


def cache_shapes(architecture: Architecture, budget: Budget, batch: int, capacity: int) -> dict[str, tuple[int, ...]]:
    """Shape of every cache at a budget: only the budget's groups are kept."""
    return {
        f"{name}.{i}": (batch, width.groups, capacity, architecture.head_dim)
        for i, width in enumerate(budget.layers)
        for name in CACHE_NAMES
    }


def token_shapes(step: StepShape) -> dict[str, tuple[int, ...]]:
    """Shapes of the four token inputs."""
    return {
        "ids": (step.batch, step.length),
        "positions": (step.batch, step.length),
        "write": (step.batch,),
        "rows": (step.rows,),
    }


def weight_shapes(
    architecture: Architecture, budget: Budget, quantization: Quantization | None = None
) -> dict[str, tuple[int, ...]]:
    """Layout `shared`: the prefix of every stored tensor that a budget binds (elastic dimension first)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in tensor_specs(architecture):
        active = spec.active(architecture, budget.layers)
        if quantization and quantization.quantizes(spec):
            shapes |= {name: tensor.active(active[0]) for name, tensor in quantization.stored(spec).items()}
        else:
            shapes[spec.name] = active
    return shapes


def choices(
    layout: str, candidates: Candidates, budget: Budget, batch: int = 1, targets: Sequence[float] = ()
) -> dict[str, np.ndarray]:
    """What tells a graph which budget to run, where its inputs' shapes do not.

    Layout `panels`: the index of each layer's candidate width, int64 [layers], for the inputs `groups` and `neurons`.
    Layout `routed`: `target`, every sequence's encoded latency target, float32 [batch, targets].

    Args:
        targets: the router's trained ones.
    """
    if layout == "panels":
        return {
            "groups": np.array([candidates.groups.index(width.groups) for width in budget.layers], np.int64),
            "neurons": np.array([candidates.neurons.index(width.neurons) for width in budget.layers], np.int64),
        }
    if isinstance(budget, RoutedBudget):
        return {TARGET_INPUT: np.tile(encode(targets, budget.target), (batch, 1))}
    return {}


def choice_name(layer: int, part: str) -> str:
    """Layout `routed`: the value in the graph that holds every token's choice in a part of a layer, int64 [T, 1]."""
    return f"choice.{layer}.{part}"


def input_shapes(
    layout: str,
    architecture: Architecture,
    candidates: Candidates,
    budget: Budget,
    step: StepShape,
    targets: Sequence[float] = (),
    quantization: Quantization | None = None,
) -> Mapping[str, tuple[int, ...]]:
    """Exact shape of every graph input for one budget and one call; `targets` are those of the router (`routed`)."""
    shapes = {**token_shapes(step), **cache_shapes(architecture, budget, step.batch, step.capacity)}
    if layout == "shared":
        shapes.update(weight_shapes(architecture, budget, quantization))
    shapes.update({n: v.shape for n, v in choices(layout, candidates, budget, step.batch, targets).items()})
    return shapes


def graph_file(layout: str, dtype: str, budget: str | None = None) -> str:
    """Path of a graph inside a bundle."""
    return f"graphs/{layout}.{budget + '.' if budget else ''}{dtype}.onnx"
