"""What TensorRT engines need in memory, estimated before anything is built. Pure functions: no TensorRT, no GPU.

Weights, KV caches and token buffers are exact. The sizes of engines and of the builder are fitted to builds with
TensorRT-RTX 1.7.1 on a CPU (docs/jetson.md says how far off they are); activations are counted from the graph, and what
the library keeps for itself on a GPU is an assumption.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ...bundle.manifest import Bundle, weights_file
from ...bundle.memory import cache_bytes, weight_bytes
from ...elastic.safetensors import item_size
from ...elastic.tensors import tensor_specs
from ...elastic.widths import Budget
from ...graph.contract import DTYPES
from .profiles import Limits, PlanSpec, plan_specs, served

MB = 1_000_000
PROFILE, PROFILE_LAYER, PROFILE_WIDTH = 1.35 * MB, 0.2 * MB, 0.3 * MB
"""Bytes of an engine for each profile: at all, for each layer, and for each number of groups or neurons in it."""
CONDITIONAL = 0.4 * MB
"""The same for each panel of each layer, where panels are conditional."""
BUILDER, BUILDER_LAYER = 330 * MB, 5 * MB
"""Bytes of the process that builds: with the library loaded, and for each layer."""
PER_ENGINE_BYTE, PER_CONDITIONAL_BYTE, PER_CONSTANT = 1.2, 6.5, 2.6
"""The same for each byte of the engine, more if it has conditionals, and for each byte of constant weights."""
LIBRARY = 600_000_000
"""What a CUDA context, the library and its kernels take; assumed, as it cannot be measured without a GPU."""


@dataclass(frozen=True)
class Memory:
    """Bytes by purpose."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Estimate:
    """What the engines of a layout need.

    Attributes:
        engines: bytes of the engine files together.
        caches: capacity -> bytes of the KV caches of the largest batch at the widest budget.
        building: of the process that builds, at its peak.
        running: with every budget in use, at the largest capacity, batch and prefill.
    """

    engines: int
    caches: Mapping[int, int]
    building: Memory
    running: Memory


def estimate(bundle: Bundle, layout: str, dtype: str, limits: Limits, *, on_device: bool) -> Estimate:
    """Estimate the memory of a layout's engines.

    Args:
        limits: capacities, batch and length they are built for, and whether every budget gets an engine of its own.
        on_device: the builder runs on the GPU that it builds for, and tries kernels there.
    """
    budgets = served(bundle, layout)
    weights = bundle.files[weights_file(dtype)].bytes
    code, constants = [], []  # of every engine
    for spec in plan_specs(bundle, layout, limits, dtype):
        code.append(_code_bytes(bundle, layout, spec))
        if layout == "per-budget":
            constants.append(weight_bytes(bundle, dtype, bundle.budget(spec.budget)))
        else:
            constants.append(0 if layout == "shared" else weights)
    per_byte = PER_CONDITIONAL_BYTE if _conditional(layout) else PER_ENGINE_BYTE
    builder = max(per_byte * n + PER_CONSTANT * held for n, held in zip(code, constants, strict=True))
    caches = {c: max(cache_bytes(bundle, dtype, b, c, limits.max_batch) for b in budgets) for c in limits.capacities}
    largest = caches[limits.capacities[-1]]
    work = max(activation_bytes(bundle, dtype, b, limits) for b in budgets)
    building = {"builder": int(BUILDER + BUILDER_LAYER * bundle.architecture.num_layers + builder)}
    if on_device:
        # A kernel is timed with the largest inputs it may get, weights among them.
        size = item_size(DTYPES[dtype])
        matrix = max(math.prod(spec.shape) for spec in tensor_specs(bundle.architecture)) * size
        building |= {"inputs and outputs of the kernels tried": largest + work + matrix, "CUDA and TensorRT": LIBRARY}
    running = {
        "weights": weights if layout == "shared" else sum(constants),
        "engines": sum(code),
        "KV caches": largest,
        "activations": work,
        "tokens and logits": _token_buffers(bundle, limits),
        "CUDA and TensorRT": LIBRARY,
    }
    return Estimate(sum(code) + sum(constants), caches, Memory(building), Memory(running))


def _conditional(layout: str) -> bool:
    return layout not in ("shared", "per-budget")


def _code_bytes(bundle: Bundle, layout: str, spec: PlanSpec) -> int:
    """Bytes of an engine without constant weights: kernels are chosen for every profile, and shared by equal layers."""
    layers, candidates = bundle.architecture.num_layers, bundle.candidates
    size = 0.0
    for profile in spec.profiles:
        size += PROFILE + PROFILE_LAYER * layers
        if _conditional(layout):
            size += CONDITIONAL * layers * (len(candidates.groups) + len(candidates.neurons))
        else:
            widths = bundle.budget(profile.budget).layers
            size += PROFILE_WIDTH * (len({w.groups for w in widths}) + len({w.neurons for w in widths}) - 2)
    return int(size)


def activation_bytes(bundle: Bundle, dtype: str, budget: Budget, limits: Limits) -> int:
    """Intermediate results of the largest call: those of one layer that exist at the same time, and the logits.

    Attention is fused: no scores are kept. The mask is counted once as bool and once as a number.
    """
    a = bundle.architecture
    length = min(limits.max_length, limits.capacities[-1])
    tokens, size = limits.max_batch * length, item_size(DTYPES[dtype])
    groups = max(width.groups for width in budget.layers)
    heads = groups * a.heads_per_group
    attention = (2 * heads + 4 * groups) * a.head_dim + heads * a.head_dim
    ffn = (3 if a.gated else 2) * max(width.neurons for width in budget.layers)
    residual = 3 * a.hidden_size + 2 * a.hidden_size  # in the precision; and a norm's input in float32
    mask = limits.max_batch * length * limits.capacities[-1] * (1 + size)
    logits = limits.max_batch * a.vocab_size * size
    return tokens * size * (residual + max(attention, ffn)) + mask + logits


def _token_buffers(bundle: Bundle, limits: Limits) -> int:
    tokens = limits.max_batch * limits.max_length * 8
    return 2 * tokens + limits.max_batch * (8 + 8 + 4 * bundle.architecture.vocab_size)
