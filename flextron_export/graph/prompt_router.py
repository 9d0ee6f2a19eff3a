"""`router.onnx`: a prompt router as a graph of its own, for every target and layout (docs/bundle-format.md)."""

from __future__ import annotations

import onnx_ir as ir

from ..elastic.architecture import Architecture
from ..elastic.router import EPSILON, PARTS, SLOPE, RouterRecord
from ..elastic.safetensors import SafetensorsFile
from .builder import GraphBuilder
from .contract import CHOICES, PROMPT_INPUT, TARGET_INPUT


def build_prompt_router(router: RouterRecord, architecture: Architecture, networks: SafetensorsFile) -> ir.Model:
    """Inputs `prompt` [B, hidden] and `target` [B, targets]; outputs `groups` and `neurons` [B, layers].

    `prompt` is the mean embedding; the outputs are int64 indices of candidates. Target 1 gives the last ones: it is the
    full model.

    Args:
        networks: `router.safetensors`; only its header is read.
    """
    g = GraphBuilder("prompt-router", "fp32")
    layers, targets = architecture.num_layers, len(router.targets)
    prompt = g.input(PROMPT_INPUT, ("B", architecture.hidden_size))
    code = g.input(TARGET_INPUT, ("B", targets))

    def weight(name: str) -> ir.Value:
        return g.external(f"router.prompt.{name}", networks.path, networks.tensors[f"prompt.{name}"])

    square = g.op("ReduceMean", g.op("Mul", prompt, prompt), g.constant([-1]))
    x = g.op("Div", prompt, g.op("Sqrt", g.op("Add", square, g.constant(EPSILON, "float32"))))
    hidden = g.op("Gemm", x, weight("input"), g.op("Gemm", code, weight("target"), transB=1), transB=1)
    logits = g.op("Gemm", g.op("LeakyRelu", hidden, alpha=SLOPE), weight("output"), transB=1)
    counts = [len(router.choices(part)) for part in PARTS]
    rows = g.op("Reshape", logits, g.constant([-1, layers, sum(counts)]))
    first = g.op("Slice", code, g.constant([0]), g.constant([1]), g.constant([1]))
    full = g.op("Cast", g.op("GreaterOrEqual", first, g.constant(1, "float32")), to=ir.DataType.INT64)
    start = 0
    for name, count in zip(CHOICES, counts, strict=True):
        part = g.op("Slice", rows, g.constant([start]), g.constant([start + count]), g.constant([2]))
        choice = g.op("Max", g.op("ArgMax", part, axis=2, keepdims=0), g.op("Mul", full, g.constant(count - 1)))
        g.output(choice, name, ("B", layers), ir.DataType.INT64)
        start += count
    return g.model()
