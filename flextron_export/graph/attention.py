"""Attention over the KV cache, in the two forms that runtimes are fast with.

`MaskedAttention` is made of standard operators: any number of heads, known when the graph runs, and TensorRT's fused
kernels; ONNX Runtime's CPU kernel computes every slot of the cache, live or not. `GroupQueryAttention` is ONNX
Runtime's own operator: it computes live slots only and updates the cache itself, but wants the number of heads as a
constant.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..elastic.architecture import Architecture
from .builder import GraphBuilder
from .contract import MICROSOFT
from .layouts import Values, Weight


class CachedAttention(ABC):
    """Attention of every layer, its caches updated.

    Args:
        tokens: the graph's inputs `ids`, `positions` and `write`.
        caches: the graph's inputs by name.
        weight: of a tensor by its name, for the norms of q and k.
        groups: of every layer, if constant.
    """

    def __init__(
        self,
        g: GraphBuilder,
        architecture: Architecture,
        tokens: dict[str, ir.Value],
        caches: dict[str, ir.Value],
        weight: Weight,
        groups: Sequence[int] | None,
    ) -> None:
        self.g, self.a, self.caches, self.groups = g, architecture, caches, groups
        self.size, self.write = g.op("Shape", tokens["ids"]), tokens["write"]
        self.rotary = () if architecture.rope is None else self._rotary(tokens["positions"])
        # Asked for here, so that they belong to the outermost graph wherever attention is.
        names = [f"layers.{i}.{name}_norm" for i in range(architecture.num_layers) for name in "qk"]
        self.norms = {name: weight(name) for name in names} if architecture.qk_norm else {}
        self._prepare(tokens["positions"])

    @abstractmethod
    def _prepare(self, positions: ir.Value) -> None:
        """Make what all layers share."""

    @abstractmethod
    def __call__(self, i: int, q: ir.Value, k: ir.Value, v: ir.Value, groups: int | None = None) -> Values:
        """Write new keys and values to the caches of layer i, and attend.

        Args:
            q: [T, heads x head_dim]; k and v: [T, groups x head_dim].
            groups: how many those are, in a branch for one width of a graph that serves several.

        Returns:
            Attended heads [T, heads x head_dim], and the caches of keys and values.
        """

    def _rotary(self, positions: ir.Value) -> Values:
        """cos and sin [B, S, head_dim / 2], computed in float32 as transformers does; no table limits the context."""
        assert self.a.rope is not None
        angles = self.g.op(
            "Mul",
            self.g.op("Unsqueeze", self.g.op("Cast", positions, to=ir.DataType.FLOAT), self.g.constant([2])),
            self.g.constant(self.a.rope.inverse_frequencies(self.a.head_dim), np.float32),
        )
        values: Values = tuple(self.g.op(function, angles) for function in ("Cos", "Sin"))
        if (scaling := self.a.rope.scaling) != 1:
            values = tuple(self.g.op("Mul", value, self.g.constant(scaling, np.float32)) for value in values)
        return tuple(self.g.op("Cast", value, to=self.g.float) for value in values)

    def _normed(self, i: int, name: str, x: ir.Value) -> ir.Value:
        """`x` [..., head_dim] after the norm of q or k, if there is one."""
        if not self.norms:
            return x
        scale = self.norms[f"layers.{i}.{name}_norm"]
        return self.g.op("RMSNormalization", x, scale, axis=-1, epsilon=self.a.norm_eps)


class MaskedAttention(CachedAttention):
    """Attention with an explicit mask, over a cache updated by `TensorScatter`.

    Causal flags and live-length inputs of the standard operator are silently misread by some releases of TensorRT.
    """

    def _prepare(self, positions: ir.Value) -> None:
        windows = sorted({self.a.window(i) for i in range(self.a.num_layers)})
        self.masks = {w: self._mask(positions, w) for w in windows}

    def __call__(self, i: int, q: ir.Value, k: ir.Value, v: ir.Value, groups: int | None = None) -> Values:
        g = self.g
        if groups is None and self.groups is not None:
            groups = self.groups[i]
        key_heads = groups or -1  # -1: read from the tensor
        query_heads = groups * self.a.heads_per_group if groups else -1
        q, k, v = (self._split(x, n) for x, n in ((q, query_heads), (k, key_heads), (v, key_heads)))
        q, k = (self._normed(i, name, x) for name, x in (("q", q), ("k", k)))
        if self.rotary:
            q, k = (g.op("RotaryEmbedding", x, *self.rotary) for x in (q, k))
        k, v = (
            g.op("TensorScatter", self.caches[f"{name}.{i}"], new, self.write, axis=2)
            for name, new in (("k", k), ("v", v))
        )
        attended = g.op("Attention", q, k, v, self.masks[self.a.window(i)])
        return g.op("Flatten", g.op("Transpose", attended, perm=[0, 2, 1, 3]), axis=2), k, v

    def _split(self, x: ir.Value, heads: int) -> ir.Value:  # [T, heads x head_dim] -> [B, heads, S, head_dim]
        shape = self.g.at_top("Concat", self.size, self.g.constant([heads, self.a.head_dim]), axis=0)
        return self.g.op("Transpose", self.g.op("Reshape", x, shape), perm=[0, 2, 1, 3])

    def _mask(self, positions: ir.Value, window: int) -> ir.Value:
        """bool [B, 1, S, C]: slot j is seen from position j on and, with a window, before position j + window."""
        g = self.g
        capacity = g.op("Squeeze", g.op("Shape", self.caches["k.0"], start=2, end=3))
        slots = g.op("Range", g.constant(0), capacity, g.constant(1))
        here = g.op("Unsqueeze", positions, g.constant([1, 3]))
        seen = g.op("LessOrEqual", slots, here)
        if not window:
            return seen
        return g.op("And", seen, g.op("Greater", slots, g.op("Sub", here, g.constant(window))))


class GroupQueryAttention(CachedAttention):
    """ONNX Runtime's contributed operator of that name, which finds the live slots from `write`.

    It takes several new tokens of several sequences in one call only where every sequence begins with them.
    """

    def _prepare(self, positions: ir.Value) -> None:
        g = self.g
        self.by_token = g.op("Concat", self.size, g.constant([-1]), axis=0)
        live = g.op("Add", self.write, g.op("Slice", self.size, g.constant([1]), g.constant([2])))
        self.last = g.op("Cast", g.op("Sub", live, g.constant(1)), to=ir.DataType.INT32)
        self.most = g.op("Cast", g.op("ReduceMax", live, keepdims=0), to=ir.DataType.INT32)

    @staticmethod
    def supports(architecture: Architecture) -> bool:
        """Whether ONNX Runtime's kernel takes heads of that size."""
        return architecture.head_dim % 8 == 0

    def __call__(self, i: int, q: ir.Value, k: ir.Value, v: ir.Value, groups: int | None = None) -> Values:
        g = self.g
        if groups is None:
            assert self.groups is not None
            groups = self.groups[i]
        key_heads, query_heads = groups, groups * self.a.heads_per_group
        if self.norms:
            heads = g.constant([-1, self.a.head_dim])
            q, k = (self._normed(i, name, g.op("Reshape", x, heads)) for name, x in (("q", q), ("k", k)))
        q, k, v = (g.op("Reshape", x, self.by_token) for x in (q, k, v))  # [B, S, heads x head_dim]
        if self.rotary:
            q, k = (
                g.op("RotaryEmbedding", x, *self.rotary, num_heads=n) for x, n in ((q, query_heads), (k, key_heads))
            )
        attended, key_cache, value_cache = g.ops(
            "GroupQueryAttention",
            3,
            *(q, k, v, self.caches[f"k.{i}"], self.caches[f"v.{i}"], self.last, self.most),
            domain=MICROSOFT,
            num_heads=query_heads,
            kv_num_heads=key_heads,
            local_window_size=self.a.window(i) or -1,
        )
        return g.op("Flatten", attended, axis=2), key_cache, value_cache
