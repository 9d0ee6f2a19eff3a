"""The forward pass of a decoder-only transformer to the graph contract, written once for every layout.

What TensorRT gets is made of standard operators, with attention outside of any `If`; what ONNX Runtime runs on the CPU
has its operator for attention, where the numbers of heads are constants.
"""

from __future__ import annotations

import onnx_ir as ir

from ..elastic.architecture import Architecture
from ..elastic.router import RouterRecord
from ..elastic.safetensors import SafetensorsFile
from ..elastic.widths import Budget, Candidates, full_budget
from .attention import CachedAttention, GroupQueryAttention, MaskedAttention
from .builder import INT64, GraphBuilder
from .contract import CACHE_NAMES, DTYPES, ROUTED
from .layouts import FixedPanels, NestedPanels, Prefix, WeightsFile, budget_weights, input_weights
from .matrices import matrices
from .quantization import Quantization, stored_tensors
from .routed import FlatRoutedPanels, RoutedPanels


def build_graph(
    layout: str,
    dtype: str,
    architecture: Architecture,
    candidates: Candidates,
    weights: SafetensorsFile,
    budget: Budget,
    router: RouterRecord | None = None,
    quantization: Quantization | None = None,
) -> ir.Model:
    """Build one graph.

    Args:
        layout: `shared`, `panels`, `per-budget` or `routed`.
        dtype: its precision.
        weights: the bundle's weights file; only its header is read.
        budget: the budget of a `per-budget` graph; ignored otherwise.
        router: the dynamic router of a `routed` graph; its file lies beside the weights file.
        quantization: of a precision with quantised matrices.
    """
    if layout == ROUTED:
        budget = full_budget(architecture)  # what is chosen per token narrows neither caches nor attention
    fixed = layout in ("per-budget", ROUTED)
    g = GraphBuilder(f"{architecture.family}.{layout}", dtype)
    tokens = {
        name: g.input(name, shape, INT64)
        for name, shape in (("ids", "BS"), ("positions", "BS"), ("write", "B"), ("rows", "N"))
    }
    # Group counts are named per layer where the graph serves several widths, and fixed where it serves one.
    groups = [w.groups if fixed else f"groups_{i}" for i, w in enumerate(budget.layers)]
    cache_shape = {
        f"{name}.{i}": ("B", groups[i], "C", architecture.head_dim)
        for i in range(architecture.num_layers)
        for name in CACHE_NAMES
    }
    caches = {name: g.input(name, shape) for name, shape in cache_shape.items()}
    multiply = matrices(g, quantization)
    stored = stored_tensors(architecture, dtype, quantization)
    file = WeightsFile(weights, stored)
    # Nested branches are for ONNX Runtime on the CPU and flat ones for TensorRT, which has no fp32 attention.
    on_cpu = DTYPES[dtype] == "F32"
    if layout == "panels":
        panels = NestedPanels if on_cpu else FixedPanels
        layers: Prefix = panels(g, architecture, candidates, file, multiply)
    elif layout == ROUTED:
        assert router is not None
        routed = RoutedPanels if on_cpu else FlatRoutedPanels
        layers = routed(g, architecture, candidates, file, multiply, router)
    elif layout == "shared":
        layers = Prefix(g, architecture, input_weights(g, architecture, stored), multiply)
    else:
        layers = Prefix(g, architecture, budget_weights(g, architecture, file, budget), multiply)
    grouped = on_cpu and layout != "shared" and GroupQueryAttention.supports(architecture)
    attention = (GroupQueryAttention if grouped else MaskedAttention)(
        g, architecture, tokens, caches, layers.weight, [w.groups for w in budget.layers] if fixed else None
    )
    logits = _forward(g, architecture, layers, tokens, caches, attention)
    g.output(logits, "logits", ("N", architecture.vocab_size), ir.DataType.FLOAT)
    for name, shape in cache_shape.items():
        g.output(caches[name], f"{name}.out", shape)
    return g.model()


def _forward(
    g: GraphBuilder,
    a: Architecture,
    layers: Prefix,
    tokens: dict[str, ir.Value],
    caches: dict[str, ir.Value],
    attention: CachedAttention,
) -> ir.Value:
    """Logits float32 [N, vocab]; `caches` is changed to hold the updated caches."""

    def norm(x: ir.Value, name: str) -> ir.Value:
        if a.norm == "layer":
            scale, bias = layers.weight(name), layers.weight(f"{name}_bias")
            return g.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=a.norm_eps)
        return g.op("RMSNormalization", x, layers.weight(name), axis=-1, epsilon=a.norm_eps)

    def look_up(table: str, indices: ir.Value) -> ir.Value:  # [B, S] -> [T, hidden]
        return layers.look_up(table, g.op("Reshape", indices, g.constant([-1])))

    x = look_up("embedding", tokens["ids"])
    if a.rope is None:
        x = g.op("Add", x, look_up("position_embedding", tokens["positions"]))
    for i in range(a.num_layers):
        normed = norm(x, f"layers.{i}.attention_norm")
        x, caches[f"k.{i}"], caches[f"v.{i}"] = layers.attention(i, normed, x, attention)
        x = layers.ffn(i, norm(x, f"layers.{i}.ffn_norm"), x)
    last = norm(g.op("Gather", x, tokens["rows"], axis=0), "norm")  # the LM head runs only where asked
    return g.op("Cast", layers.logits(last), to=ir.DataType.FLOAT)
