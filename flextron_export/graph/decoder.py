"""The forward pass of a decoder-only transformer to the graph contract, written once for every layout.

Rules that real parsers and compilers impose: the attention mask is always explicit (causal flags and live-length inputs
are silently misread by some releases), the KV cache is updated outside `Attention` by `TensorScatter`, and attention
stays outside `If`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..elastic.architecture import Architecture
from ..elastic.router import RouterRecord
from ..elastic.safetensors import SafetensorsFile
from ..elastic.widths import Budget, Candidates, full_budget
from .builder import INT64, GraphBuilder
from .contract import CACHE_NAMES, DTYPES, ROUTED
from .layouts import FixedPanels, Panels, Prefix, budget_weights, input_weights
from .matrices import matrices
from .quantization import Quantization
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
    # Nested branches are for ONNX Runtime on the CPU and flat ones for TensorRT, which has no fp32 attention.
    nested = DTYPES[dtype] == "F32"
    if layout == "panels":
        panels = Panels if nested else FixedPanels
        layers: Prefix = panels(g, architecture, candidates, weights, multiply)
    elif layout == ROUTED:
        assert router is not None
        routed = RoutedPanels if nested else FlatRoutedPanels
        layers = routed(g, architecture, candidates, weights, multiply, router)
    elif layout == "shared":
        layers = Prefix(g, architecture, input_weights(g, architecture), multiply)
    else:
        layers = Prefix(g, architecture, budget_weights(g, architecture, weights, budget), multiply)
    logits = _forward(g, architecture, layers, tokens, caches, budget if fixed else None)
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
    budget: Budget | None,
) -> ir.Value:
    """Logits float32 [N, vocab]; `caches` is changed to hold the updated caches.

    Head counts are constants if `budget` is given.
    """
    masks = {
        w: _mask(g, tokens["positions"], caches["k.0"], w) for w in sorted({a.window(i) for i in range(a.num_layers)})
    }
    rotary = None if a.rope is None else _rotary(g, a.rope.inverse_frequencies(a.head_dim), tokens["positions"])
    batch_and_length = g.op("Shape", tokens["ids"])

    def norm(x: ir.Value, name: str) -> ir.Value:
        if a.norm == "layer":
            scale, bias = layers.weight(name), layers.weight(f"{name}_bias")
            return g.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=a.norm_eps)
        return g.op("RMSNormalization", x, layers.weight(name), axis=-1, epsilon=a.norm_eps)

    def split(x: ir.Value, heads: int) -> ir.Value:  # [T, heads x head_dim] -> [B, heads, S, head_dim]
        shape = g.at_top("Concat", batch_and_length, g.constant([heads, a.head_dim]), axis=0)
        return g.op("Transpose", g.op("Reshape", x, shape), perm=[0, 2, 1, 3])

    def join(x: ir.Value) -> ir.Value:  # [B, heads, S, head_dim] -> [T, heads x head_dim]
        return g.op("Flatten", g.op("Transpose", x, perm=[0, 2, 1, 3]), axis=2)

    def look_up(table: str, indices: ir.Value) -> ir.Value:  # [B, S] -> [T, hidden]
        return layers.look_up(table, g.op("Reshape", indices, g.constant([-1])))

    x = look_up("embedding", tokens["ids"])
    if a.rope is None:
        x = g.op("Add", x, look_up("position_embedding", tokens["positions"]))
    for i in range(a.num_layers):
        key_heads = budget.layers[i].groups if budget else -1  # -1: read from the tensor
        query_heads = key_heads * a.heads_per_group if budget else -1
        q, k, v = layers.query_key_value(i, norm(x, f"layers.{i}.attention_norm"))
        q, k, v = split(q, query_heads), split(k, key_heads), split(v, key_heads)
        if a.qk_norm:
            q, k = (
                g.op("RMSNormalization", y, layers.weight(f"layers.{i}.{name}_norm"), axis=-1, epsilon=a.norm_eps)
                for y, name in ((q, "q"), (k, "k"))
            )
        if rotary is not None:
            q, k = (g.op("RotaryEmbedding", y, *rotary) for y in (q, k))
        for name, new in (("k", k), ("v", v)):
            caches[f"{name}.{i}"] = g.op("TensorScatter", caches[f"{name}.{i}"], new, tokens["write"], axis=2)
        attended = g.op("Attention", q, caches[f"k.{i}"], caches[f"v.{i}"], masks[a.window(i)])
        x = layers.attention_output(i, join(attended), x)
        x = layers.ffn(i, norm(x, f"layers.{i}.ffn_norm"), x)
    last = norm(g.op("Gather", x, tokens["rows"], axis=0), "norm")  # the LM head runs only where asked
    return g.op("Cast", layers.logits(last), to=ir.DataType.FLOAT)


def _mask(g: GraphBuilder, positions: ir.Value, cache: ir.Value, window: int) -> ir.Value:
    """bool [B, 1, S, C]: slot j is visible to a token at position j or later, and, with a window, before j + window."""
    capacity = g.op("Squeeze", g.op("Shape", cache, start=2, end=3))
    slots = g.op("Range", g.constant(0), capacity, g.constant(1))
    here = g.op("Unsqueeze", positions, g.constant([1, 3]))
    seen = g.op("LessOrEqual", slots, here)
    if not window:
        return seen
    return g.op("And", seen, g.op("Greater", slots, g.op("Sub", here, g.constant(window))))


def _rotary(g: GraphBuilder, frequencies: np.ndarray, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
    """cos and sin [B, S, head_dim / 2], computed in float32 as transformers does; no table limits the context."""
    angles = g.op(
        "Mul",
        g.op("Unsqueeze", g.op("Cast", positions, to=ir.DataType.FLOAT), g.constant([2])),
        g.constant(frequencies, np.float32),
    )
    cos, sin = (g.op("Cast", g.op(f, angles), to=g.float) for f in ("Cos", "Sin"))
    return cos, sin
