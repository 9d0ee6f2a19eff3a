"""Layouts: where the weights of a graph live and how the elastic parts narrow. The rest of the graph is `decoder`.

`Prefix` serves `shared` (weights are inputs with dynamic leading dimensions) and `per-budget` (initializers are
prefixes of the weights file); `Panels` cuts every elastic matrix at the candidate widths and runs a panel under `If`;
`routed` lets every token choose among the panels.
All linear layers are `Gemm` on flattened tokens [T, in]: a transposed initializer is read where it lies, while a
`Transpose` node would be folded into a private copy; and Gemm's third input adds the bias or the residual for free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from ..elastic.architecture import Architecture
from ..elastic.safetensors import SafetensorsFile
from ..elastic.tensors import PROJECTIONS, rows, tensor_specs
from ..elastic.widths import Budget, Candidates, LayerWidth
from .builder import ELEMENTS, INT64, GraphBuilder, View
from .matrices import FloatMatrices, Matrices, Part
from .quantization import SCALE, Stored

Values = tuple[ir.Value, ...]
State = TypeVar("State")
Attend = Callable[..., Values]
"""`attention.CachedAttention`, called."""


class Weight(Protocol):
    """Where the weights of a graph come from."""

    def __call__(self, name: str, view: View | None = None) -> ir.Value:
        """The tensor of that name, as much of it as the layout uses, seen as it is stored or otherwise."""


@dataclass(frozen=True)
class WeightsFile:
    """The weights file of a precision, of which only the header is read."""

    file: SafetensorsFile
    stored: Mapping[str, Stored]

    def rows(
        self, g: GraphBuilder, name: str, start: int, stop: int, view: View | None = None, label: str = ""
    ) -> ir.Value:
        """What rows of a matrix need of the tensor of that name, as an initializer `label`."""
        first, last = self.stored[name].rows(start, stop)
        # One range may be seen in two ways.
        label = (label or name) + (".rows" if view else "")
        return g.external(label, self.file.path, self.file.tensors[name], first, last, view)


class Prefix:
    """Elastic layers over one weight each, whatever its number of rows."""

    def __init__(self, g: GraphBuilder, architecture: Architecture, weight: Weight, matrices: Matrices) -> None:
        self.g, self.a, self.weight, self.matrices = g, architecture, weight, matrices

    def whole(self, name: str) -> Part:
        """A matrix, as much of it as the layout uses."""
        return lambda suffix="", view=None: self.weight(name + suffix, view)

    def look_up(self, name: str, indices: ir.Value) -> ir.Value:
        """Rows of an embedding, [T] -> [T, hidden]."""
        # Learned positions are few, and stay floats.
        matrices = self.matrices if name == "embedding" else FloatMatrices(self.g)
        return matrices.rows(self.whole(name), indices)

    def logits(self, x: ir.Value) -> ir.Value:
        """The LM head: [N, hidden] -> [N, vocab]."""
        return self.matrices.project(x, self.whole("embedding" if self.a.tied else "lm_head"), None)

    def attention(self, i: int, x: ir.Value, residual: ir.Value, attend: Attend) -> Values:
        """residual + attention over the normed tokens [T, hidden] -> [T, hidden], and the caches of layer i."""
        attended, *caches = attend(i, *self.query_key_value(i, x))
        return self.attention_output(i, attended, residual), *caches

    def query_key_value(self, i: int, x: ir.Value) -> Values:
        """Projections of the normed tokens [T, hidden] -> q [T, heads x head_dim], k and v [T, groups x head_dim]."""
        return tuple(self.linear(i, name, x) for name in "qkv")

    def attention_output(self, i: int, x: ir.Value, residual: ir.Value) -> ir.Value:
        """residual + output projection of the attended heads [T, heads x head_dim] -> [T, hidden]."""
        return self.matrices.accumulate(x, self.whole(f"layers.{i}.o"), self.biased(residual, i, "o"))

    def ffn(self, i: int, x: ir.Value, residual: ir.Value) -> ir.Value:
        """residual + down(activation(gate x) * up x), or down(activation(up x)), tokens [T, hidden] -> [T, hidden]."""
        inner = self.inner(lambda name: self.linear(i, name, x))
        return self.matrices.accumulate(inner, self.whole(f"layers.{i}.down"), self.biased(residual, i, "down"))

    def linear(self, i: int, name: str, x: ir.Value) -> ir.Value:
        bias = self.weight(f"layers.{i}.{name}_bias") if self.a.biased(name) else None
        return self.matrices.project(x, self.whole(f"layers.{i}.{name}"), bias)

    def biased(self, residual: ir.Value, i: int, name: str) -> ir.Value:
        return self.g.op("Add", residual, self.weight(f"layers.{i}.{name}_bias")) if self.a.biased(name) else residual

    def inner(self, linear: Callable[[str], ir.Value]) -> ir.Value:
        """The neurons of an FFN out of its linear layers by name."""
        if self.a.gated:
            return self.g.op("Mul", self.activation(linear("gate")), linear("up"))
        return self.activation(linear("up"))

    def activation(self, x: ir.Value) -> ir.Value:
        if self.a.activation == "relu":
            return self.g.op("Relu", x)
        if self.a.activation == "silu":
            return self.g.op("Mul", x, self.g.op("Sigmoid", x))
        return self.g.op("Gelu", x, approximate={"gelu": "none", "gelu_tanh": "tanh"}[self.a.activation])


class Panels(Prefix):
    """Elastic layers as a chain of constant panels: panel b runs if the layer's chosen candidate is b or wider.

    A projection's panel is appended to the heads before it, so that caches and attention are as narrow as the budget;
    an output's panel is added to what the panels before it gave. Every `If` costs about as much as a small kernel, so
    they are nested rather than in a row.
    """

    def __init__(
        self,
        g: GraphBuilder,
        architecture: Architecture,
        candidates: Candidates,
        weights: WeightsFile,
        matrices: Matrices,
    ) -> None:
        super().__init__(g, architecture, file_weights(g, architecture, weights), matrices)
        self.candidates, self.weights = candidates, weights
        self.prepare()

    def prepare(self) -> None:
        """Make the inputs that choose the panels."""
        self._reached = {kind: self._reached_by_layer(kind) for kind in ("groups", "neurons")}

    def wanted(self, kind: str, i: int, b: int) -> ir.Value:
        """bool, a scalar or [1]: panel b (from 1 on) is to run in layer i."""
        return self._reached[kind][b - 1][i]

    def masked(self, kind: str, b: int, x: ir.Value) -> ir.Value:
        """What an output's panel b reads [T, columns], zero for tokens that do without it; here all tokens want it."""
        return x

    def _reached_by_layer(self, kind: str) -> list[Sequence[ir.Value]]:
        """For each candidate from the second on, a bool [1] per layer: its choice is that candidate or a wider one."""
        layers = self.a.num_layers
        choice = self.g.input(kind, (layers,), INT64)
        count = len(getattr(self.candidates, kind))
        reached = (self.g.op("GreaterOrEqual", choice, self.g.constant(b)) for b in range(1, count))
        return [self.g.split(values, layers) for values in reached]

    def projected(self, i: int, names: str, x: ir.Value) -> Values:
        """Projections of x [T, hidden] in full width; zeros stand for the panels that are not wanted."""

        def panel(b: int, before: list[Values]) -> list[Values]:
            return [*before, tuple(self.panel_linear(i, name, x, b) for name in names)]

        def pad(pieces: list[Values]) -> Values:
            count = len(self.candidates.groups)
            missing = [self.no_panels(i, names, x, len(pieces), count - 1)] if len(pieces) < count else []
            return self.joined([*pieces, *missing])

        # Pieces are only collected; the last branch joins them, once.
        nothing: list[Values] = []
        return self.nest("groups", i, panel, nothing, pad)

    def joined(self, pieces: Sequence[Values]) -> Values:
        """Panels of several projections, each with its own side by side."""
        return tuple(self.g.op("Concat", *p, axis=-1) if len(p) > 1 else p[0] for p in zip(*pieces, strict=True))

    def no_panels(self, i: int, names: str, x: ir.Value, first: int, last: int) -> Values:
        """Zeros in the shape of the projections of x by the panels from `first` to `last`."""
        ends = ((self.span(f"layers.{i}.{name}", first)[0], self.span(f"layers.{i}.{name}", last)[1]) for name in names)
        return tuple(self.zeros(x, self.g.constant([stop - start])) for start, stop in ends)

    def attention_output(self, i: int, x: ir.Value, residual: ir.Value) -> ir.Value:
        def panel(b: int, before: ir.Value) -> ir.Value:
            return self.output_panel(i, b, x, before)

        start = self.biased(residual, i, "o")
        return self.nest("groups", i, panel, start, lambda y: (y,))[0]

    def output_panel(self, i: int, b: int, x: ir.Value, before: ir.Value) -> ir.Value:
        """before + what panel b of the output projection makes of the attended heads [T, heads x head_dim]."""
        start, stop = self.span(f"layers.{i}.o", b)
        part = self.g.op("Slice", x, self.g.constant([start]), self.g.constant([stop]), self.g.constant([1]))
        return self.matrices.accumulate(self.masked("groups", b, part), self.panel(f"layers.{i}.o", b), before)

    def ffn(self, i: int, x: ir.Value, residual: ir.Value) -> ir.Value:
        def panel(b: int, before: ir.Value) -> ir.Value:
            inner = self.inner(lambda name: self.panel_linear(i, name, x, b))
            return self.matrices.accumulate(self.masked("neurons", b, inner), self.panel(f"layers.{i}.down", b), before)

        start = self.biased(residual, i, "down")
        return self.nest("neurons", i, panel, start, lambda y: (y,))[0]

    def nest(
        self, kind: str, i: int, panel: Callable[[int, State], State], before: State, finish: Callable[[State], Values]
    ) -> Values:
        """Panel 0 always, each further panel inside the `If` of the one before: a narrow budget meets only one `If`."""
        before = panel(0, before)
        count = len(getattr(self.candidates, kind))

        def after(b: int, state: State) -> Values:
            if b == count:
                return finish(state)
            return self.g.cond(self.wanted(kind, i, b), lambda: after(b + 1, panel(b, state)), lambda: finish(state))

        return after(1, before)

    def panel_linear(self, i: int, name: str, x: ir.Value, b: int) -> ir.Value:
        panel = self.panel(f"layers.{i}.{name}", b)
        return self.matrices.project(x, panel, panel("_bias") if self.a.biased(name) else None)

    def panel(self, name: str, b: int) -> Part:
        """Panel b of a matrix, of its bias and of its scales."""

        def part(suffix: str = "", view: View | None = None) -> ir.Value:
            label = f"{name}{suffix}.panel{b}"
            return self.weights.rows(self.g, name + suffix, *self.span(name, b), view=view, label=label)

        return part

    def span(self, name: str, b: int) -> tuple[int, int]:
        """Rows of panel b of an elastic tensor."""
        kind = PROJECTIONS[name.rsplit(".", 1)[-1]]
        values = self.candidates.neurons if kind == "neurons" else self.candidates.groups
        start, stop = (rows(self.a, kind, LayerWidth(n, n)) for n in (values[b - 1] if b else 0, values[b]))
        return start, stop

    def zeros(self, like: ir.Value, columns: ir.Value) -> ir.Value:
        """Zeros [T, columns]; `columns` is int64 [1]."""
        shape = self.g.op("Concat", self.g.op("Shape", like, start=0, end=1), columns, axis=0)
        return self.g.op("ConstantOfShape", shape, value=ir.tensor(np.zeros(1, self.g.float.numpy())))


class NestedPanels(Panels):
    """`panels` for ONNX Runtime: attention lies in the branch of the layer's width, where its heads are constants.

    A panel of the output projection lies in the branch of the same panel of q, k and v, behind the branch inside it,
    which has attended by then: one nest of `If`s instead of two.
    """

    def attention(self, i: int, x: ir.Value, residual: ir.Value, attend: Attend) -> Values:
        count, start = len(self.candidates.groups), self.biased(residual, i, "o")

        def level(b: int, before: list[Values]) -> Values:
            pieces = [*before, tuple(self.panel_linear(i, name, x, b) for name in "qkv")]

            def here() -> Values:
                return start, *attend(i, *self.joined(pieces), self.candidates.groups[b])

            def deeper() -> Values:
                return level(b + 1, pieces)

            y, attended, *caches = (
                here() if b + 1 == count else self.g.cond(self.wanted("groups", i, b + 1), deeper, here)
            )
            return self.output_panel(i, b, attended, y), attended, *caches

        y, _, *caches = level(0, [])
        return y, *caches


class FlatPanels(Panels):
    """Panels as TensorRT takes them: in a row, and every branch of an `If` has the same shape.

    So an unwanted panel gives zeros, and projections have full width.
    """

    def projected(self, i: int, names: str, x: ir.Value) -> Values:
        def panel(b: int) -> Values:
            return tuple(self.panel_linear(i, name, x, b) for name in names)

        pieces = [panel(0)]
        for b in range(1, len(self.candidates.groups)):
            nothing = partial(self.no_panels, i, names, x, b, b)
            pieces.append(self.g.cond(self.wanted("groups", i, b), partial(panel, b), nothing))
        return self.joined(pieces)

    def nest(
        self, kind: str, i: int, panel: Callable[[int, State], State], before: State, finish: Callable[[State], Values]
    ) -> Values:
        """The panels in a row: TensorRT does not compile an `If` inside an `If`."""
        values = finish(panel(0, before))
        for b in range(1, len(getattr(self.candidates, kind))):
            values = self.one_more(self.wanted(kind, i, b), partial(panel, b), values[0])
        return values

    def one_more(self, wanted: ir.Value, panel: Callable[[Any], Any], state: ir.Value) -> Values:
        return self.g.cond(wanted, lambda: (panel(state),), lambda: (state,))


class FixedPanels(FlatPanels):
    """`panels` for TensorRT: projections are cut to the groups of the cache, whose number each profile fixes.

    The attended heads are padded with zeros to full width again.
    """

    def query_key_value(self, i: int, x: ir.Value) -> Values:
        whole = self.projected(i, "qkv", x)
        groups = self.g.op("Shape", next(v for v in self.g.inputs if v.name == f"k.{i}"), start=1, end=2)
        per_group = (self.a.heads_per_group * self.a.head_dim, self.a.head_dim, self.a.head_dim)
        return tuple(
            self.g.op(
                "Slice", y, self.g.constant([0]), self.g.op("Mul", groups, self.g.constant([n])), self.g.constant([1])
            )
            for y, n in zip(whole, per_group, strict=True)
        )

    def attention_output(self, i: int, x: ir.Value, residual: ir.Value) -> ir.Value:
        full = self.g.constant([self.a.num_heads * self.a.head_dim])
        missing = self.g.op("Sub", full, self.g.op("Shape", x, start=1, end=2))
        return super().attention_output(i, self.g.op("Concat", x, self.zeros(x, missing), axis=-1), residual)


def file_weights(g: GraphBuilder, architecture: Architecture, weights: WeightsFile) -> Weight:
    """Weights as whole tensors of the weights file."""
    return _prefixes(g, weights, {spec.name: spec.shape[0] for spec in tensor_specs(architecture)})


def budget_weights(g: GraphBuilder, architecture: Architecture, weights: WeightsFile, budget: Budget) -> Weight:
    """Weights as the prefixes that a budget uses."""
    specs = tensor_specs(architecture)
    return _prefixes(g, weights, {spec.name: spec.active(architecture, budget.layers)[0] for spec in specs})


def input_weights(g: GraphBuilder, architecture: Architecture, stored: Mapping[str, Stored]) -> Weight:
    """Weights as graph inputs; the rows of elastic ones are named per layer and kind."""
    specs = {spec.name: spec for spec in tensor_specs(architecture)}
    inputs = {}
    for name, tensor in stored.items():
        spec = specs[name.removesuffix(SCALE)]
        elastic = spec.rows and tensor.unit is not None
        first: int | str = f"{spec.rows}_{spec.layer}" if elastic else tensor.shape[0]
        inputs[name] = g.input(name, [first, *tensor.shape[1:]], ELEMENTS[tensor.dtype])
    return lambda name, view=None: inputs[name]


def _prefixes(g: GraphBuilder, weights: WeightsFile, count: Mapping[str, int]) -> Weight:
    """Weights as the first rows of the tensors of the weights file."""
    return lambda name, view=None: weights.rows(g, name, 0, count[name.removesuffix(SCALE)], view)
