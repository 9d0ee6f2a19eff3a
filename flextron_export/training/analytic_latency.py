"""A latency model from bytes and operations: what a device's data sheet says a width costs (docs/latency-model.md).

Roofline: a kernel takes as long as its bytes at the memory's peak bandwidth or its operations at peak arithmetic,
whichever is longer, and a launch. That is a lower bound; what it is good for is how layers and widths compare.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..elastic.architecture import Architecture
from ..elastic.tensors import rows, tensor_specs
from ..elastic.widths import Candidates, LayerWidth
from ..errors import InputError, problems
from ..targets.device_description import DeviceDescription
from .latency_model import PHASES, LatencyModel

WEIGHT_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
"""Bytes per weight. Scales of quantised weights, some 2 %, are not counted."""

ARITHMETIC = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "fp8": "fp8", "int8": "fp16", "int4": "fp16"}
"""dtype -> precision of the arithmetic: int8 and int4 are the weights' alone."""

NEURON_BLOCK = 16
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 32000,
    },
    "8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    },
}
"""Sizes of Llama 3.2 1B, Llama 2 7B and Llama 3.1 8B, in the words of a Hugging Face config."""


def shape_architecture(shape: str) -> Architecture:
    """The architecture of a named shape; InputError names those there are."""
    if shape not in SHAPES:
        raise InputError(f"There is no shape {shape!r}.", fix=f"use one of: {', '.join(SHAPES)}")
    return Architecture.from_config({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **SHAPES[shape]})


def scaled_candidates(candidates: Candidates, architecture: Architecture) -> Candidates:
    """The same fractions of another model's full widths, to whole groups and to the nearest `NEURON_BLOCK` neurons.

    Two candidates of a finer model may become the same width.
    """
    groups, neurons = (
        tuple(max(round(w / widths[-1] * full / block), 1) * block for w in widths)
        for widths, full, block in (
            (candidates.groups, architecture.num_kv_heads, 1),
            (candidates.neurons, architecture.intermediate_size, NEURON_BLOCK),
        )
    )
    return Candidates(groups, neurons)


def analytic_latency(
    architecture: Architecture,
    candidates: Candidates,
    device: DeviceDescription,
    *,
    phase: str = "decode",
    tokens: int = 1024,
    dtype: str = "fp16",
) -> LatencyModel:
    """The latency model of an architecture at batch 1 on a device that nobody has at hand.

    Args:
        candidates: widths to compute entries for.
        device: its data sheet.
        phase: `decode` (one token, with `tokens` in the cache) or `prefill` (a prompt of `tokens`).
        dtype: precision of the weights; the KV cache and activations are of 16 bits, or 32 with `fp32`.

    Raises:
        InputError: the device does not have the precision, or an argument cannot be used; every fault is named.
    """
    found = [] if phase in PHASES else [f"phase is {phase!r}, it must be one of {', '.join(PHASES)}"]
    found += [] if tokens >= 1 else [f"tokens is {tokens}, at least 1 is needed"]
    if dtype not in WEIGHT_BYTES:
        found.append(f"dtype is {dtype!r}, it must be one of {', '.join(WEIGHT_BYTES)}")
    elif dtype not in device.precisions or ARITHMETIC[dtype] not in device.tflops:
        found.append(f"{device.name} has no {dtype}, only {', '.join(device.precisions)}")
    problems(InputError, "there is no analytic latency for this", found)
    roof = _Roof(device, dtype, rows=1 if phase == "decode" else tokens)
    model = LatencyModel(
        phase,
        tokens,
        _intercept(architecture, roof),
        tuple(_attention(architecture, g, roof, phase, tokens) for g in candidates.groups),
        tuple(_ffn(architecture, n, roof) for n in candidates.neurons),
        {
            "made": "analytic: roofline of bytes and operations, batch 1",
            "device": device.id,
            "dtype": dtype,
            "bandwidth_gb_s": device.bandwidth_gb_s,
            "tflops": device.tflops[ARITHMETIC[dtype]],
            "launch_us": device.launch_us,
        },
        candidates,
        architecture.num_layers,
    )
    model.validate()
    return model


def analytic_latency_of_shape(
    shape: str,
    candidates: Candidates,
    layers: int,
    device: DeviceDescription,
    *,
    phase: str = "decode",
    tokens: int = 1024,
    dtype: str = "fp16",
) -> LatencyModel:
    """The latency model that a small model gets when it stands for a large one of a named shape.

    Entry k is that of the shape's layer at the fraction of full width that candidate k is (`scaled_candidates`), and
    each of the `layers` stands for as many of the shape's as there are more (`LatencyModel.for_model`). So a routing
    experiment on a toy optimises the trade-off of a 7B model, and not the overhead of its own small matrices.

    Args:
        candidates, layers: of the small model.
        device, phase, tokens, dtype: see `analytic_latency`.
    """
    architecture = shape_architecture(shape)
    widths = scaled_candidates(candidates, architecture)
    model = analytic_latency(architecture, widths, device, phase=phase, tokens=tokens, dtype=dtype)
    source = {**model.source, "shape": shape, "shape_widths": widths.to_json(), "shape_layers": model.layers}
    return replace(model, candidates=None, source=source).for_model(candidates, layers)


@dataclass(frozen=True)
class _Roof:
    """Milliseconds of kernels on a device, for so many rows of tokens."""

    device: DeviceDescription
    dtype: str
    rows: int

    @property
    def activation_bytes(self) -> float:
        return 4.0 if self.dtype == "fp32" else 2.0

    def kernel(self, numbers: float, operations: float = 0.0, weights: float = 0.0) -> float:
        """A kernel that reads and writes so many activations (or cached keys and values), and reads so many weights."""
        moved = numbers * self.activation_bytes + weights * WEIGHT_BYTES[self.dtype]
        by_memory = moved / (self.device.bandwidth_gb_s * 1e9)
        by_arithmetic = operations / (self.device.tflops[ARITHMETIC[self.dtype]] * 1e12)
        return max(by_memory, by_arithmetic) * 1e3 + self.device.launch_us * 1e-3

    def matrix(self, inputs: int, outputs: int, rows: int | None = None) -> float:
        """A linear layer."""
        count = self.rows if rows is None else rows
        return self.kernel(count * (inputs + outputs), 2.0 * count * inputs * outputs, inputs * outputs)


def _layer(a: Architecture, roof: _Roof, width: LayerWidth, kinds: tuple[str, ...]) -> float:
    """The matrices of a layer whose elastic rows are of one of the kinds."""
    return sum(
        roof.matrix(rows(a, spec.rows, width), spec.shape[1])
        for spec in tensor_specs(a)
        if spec.layer == 0 and spec.rows in kinds and len(spec.shape) == 2 and spec.rows is not None
    )


def _attention(a: Architecture, groups: int, roof: _Roof, phase: str, tokens: int) -> float:
    width = LayerWidth(groups, a.intermediate_size)
    query, key = (rows(a, kind, width) for kind in ("query", "key"))
    new, seen = roof.rows, tokens if phase == "decode" else (tokens + 1) / 2  # causal: half the prompt on average
    rotary_and_cache = roof.kernel(2 * new * (query + 2 * key))
    # Scores and their weighted sum: 2 x 2 operations per query channel and token seen; the cache is read once.
    core = roof.kernel(2 * new * query + 2 * key * tokens, 4.0 * new * query * seen)
    return _layer(a, roof, width, ("query", "key")) + rotary_and_cache + core


def _ffn(a: Architecture, neurons: int, roof: _Roof) -> float:
    width = LayerWidth(a.num_kv_heads, neurons)
    return _layer(a, roof, width, ("neurons",)) + roof.kernel(3 * roof.rows * neurons)  # activation and product


def _intercept(a: Architecture, roof: _Roof) -> float:
    """Embedding, two norms per layer and the last one, and the LM head, which runs for one token alone."""
    norm = roof.kernel(2 * roof.rows * a.hidden_size, weights=a.hidden_size)
    embedding = roof.kernel(roof.rows * a.hidden_size, weights=roof.rows * a.hidden_size)
    return embedding + (2 * a.num_layers + 1) * norm + roof.matrix(a.hidden_size, a.vocab_size, rows=1)
