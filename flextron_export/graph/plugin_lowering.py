"""A graph for runtimes without the operators of opset 23 and 24: attention and its cache become our plugin's node.

The bundle's graph says `RotaryEmbedding`, `TensorScatter`, `Attention` and `RMSNormalization`; TensorRT before 10.15
knows none of them. Here the first three become one `flextron::HeadSubsetAttention` per layer, and the norm becomes the
primitive operators of its specification, computed in float32. Everything else stays as it is; what is left needs
opset 20.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..elastic.architecture import Architecture
from ..errors import TargetError
from .operators.functions import DOMAIN, VERSION, head_subset_attention, node

OPSET, IR_VERSION = 20, 10
"""What the parser of TensorRT 10.3 reads."""

NEWER = ("Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter")
"""Operators of our graphs that came after OPSET."""

_SWAPPED = [0, 2, 1, 3]
_EVERY_GROUP = 2**31 - 1
"""The plugin takes it as the number of groups there are: a budget's cache has no others."""


def lower_to_plugins(model: onnx.ModelProto, architecture: Architecture, *, bodies: bool = False) -> onnx.ModelProto:
    """The same graph with our plugin in place of what OPSET lacks.

    Args:
        model: a graph to the contract, weights as external data or not; it is not changed.
        architecture: tells the sliding window of each layer.
        bodies: keep opset 24 and add the operator as an ONNX function, so that any runtime of opset 24 runs the result.

    Raises:
        TargetError: the graph has an operator newer than OPSET in a place that is not known here.
    """
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    _Lowering(lowered.graph, architecture).run()
    _remove_unused(lowered.graph)
    if any(a.name == "block_size" for n in _nodes(lowered.graph) for a in n.attribute):
        raise TargetError(
            f"The weights are quantised in groups, which opset {OPSET} does not have.",
            fix="use TensorRT 10.15 or newer (JetPack 7.2), or --dtype fp16",
        )
    if left := sorted({n.op_type for n in _nodes(lowered.graph) if n.op_type in NEWER}):
        raise TargetError(
            f"The graph has {', '.join(left)} where no plugin takes its place.",
            fix="use TensorRT 10.15 or newer, or --layout shared",
        )
    lowered.ir_version = min(lowered.ir_version, IR_VERSION)
    del lowered.opset_import[:]
    if bodies:
        lowered.ir_version, lowered_opset = model.ir_version, max(o.version for o in model.opset_import)
        lowered.functions.append(head_subset_attention(rotary=architecture.rope is not None))
    else:
        lowered_opset = OPSET
    lowered.opset_import.extend([helper.make_opsetid("", lowered_opset), helper.make_opsetid(DOMAIN, VERSION)])
    return lowered


class _Lowering:
    def __init__(self, graph: onnx.GraphProto, architecture: Architecture) -> None:
        self.graph, self.architecture = graph, architecture
        self.producers = {name: n for n in graph.node for name in n.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for n in graph.node:
            for name in n.input:
                self.consumers.setdefault(name, []).append(n)
        self.groups = self.constant("every_group", np.array([_EVERY_GROUP], np.int32))
        self.last_axis = self.constant("last_axis", np.array([-1], np.int64))

    def run(self) -> None:
        made: list[onnx.NodeProto] = []
        by_plugins: set[str] = set()
        # Nodes stay in an order in which everything is made before it is used.
        for n in self.graph.node:
            if n.op_type == "Attention":
                made += self.attention(n)
                by_plugins.update(made[-1].output)
            elif n.op_type == "RMSNormalization":
                made += self.norm(n)
            else:
                made.append(n)
        # The Transpose behind an Attention and the TensorScatters before it, whose values the plugin makes.
        made = [n for n in made if n.domain == DOMAIN or by_plugins.isdisjoint(n.output)]
        del self.graph.node[:]
        self.graph.node.extend(made)

    def attention(self, n: onnx.NodeProto) -> list[onnx.NodeProto]:
        """One plugin node, and the norms of query and key if there are any, for an Attention and what feeds it."""
        scale = {a.name: a.f for a in n.attribute}
        scatters = [self._made_by(name, "TensorScatter") for name in n.input[1:3]]
        after = self.consumers.get(n.output[0], [])
        if set(scale) - {"scale"} or None in scatters or len(after) != 1 or not self._swaps(after[0]):
            raise self._unknown(n)
        key, value = (s for s in scatters if s is not None)
        made: list[onnx.NodeProto] = []
        tables: list[list[str]] = []
        rows = []
        for name in (n.input[0], key.input[1], value.input[1]):
            if rotary := self._made_by(name, "RotaryEmbedding"):
                tables.append(list(rotary.input[1:3]))
                name = rotary.input[0]
            rows.append(self.rows(name, n, made))
        if tables and (len(tables) != 2 or tables[0] != tables[1]):
            raise self._unknown(n)
        layer = int(key.input[0].split(".")[1])
        attributes = {"window": self.architecture.window(layer), "scale": scale.get("scale", 0.0)}
        inputs = [
            *rows,
            key.input[0],
            value.input[0],
            "positions",
            "write",
            self.groups,
            *(tables[0] if tables else []),
        ]
        outputs = [after[0].output[0], key.output[0], value.output[0]]
        plugin = node(head_subset_attention(rotary=bool(tables)), inputs, outputs, **attributes)
        plugin.name = f"layers.{layer}.attention"
        return [*made, plugin]

    def rows(self, name: str, attention: onnx.NodeProto, made: list[onnx.NodeProto]) -> str:
        """[B, S, heads, head_dim] of a value that the graph has as [B, heads, S, head_dim].

        Nodes for it go to `made`.
        """
        if norm := self._made_by(
            name, "RMSNormalization"
        ):  # of the last axis: it does not mind the order of the others
            copy = onnx.NodeProto()
            copy.CopyFrom(norm)
            copy.input[0] = self.rows(norm.input[0], attention, made)
            copy.output[0] = f"{norm.output[0]}.rows"
            made += self.norm(copy)
            return copy.output[0]
        swap = self._made_by(name, "Transpose")
        if swap is None or not self._swaps(swap):
            raise self._unknown(attention)
        return swap.input[0]

    def norm(self, n: onnx.NodeProto) -> list[onnx.NodeProto]:
        """x / sqrt(mean(x^2) + epsilon) in float32, rounded to the type of the scale, times the scale (opset 23)."""
        attributes = {a.name: helper.get_attribute_value(a) for a in n.attribute}
        if attributes.get("axis", -1) != -1 or attributes.get("stash_type", 1) != 1:
            raise self._unknown(n)
        epsilon = self.constant(
            f"epsilon.{attributes.get('epsilon', 1e-5)!r}", np.float32(attributes.get("epsilon", 1e-5))
        )
        x, scale = n.input
        out = n.output[0]
        step = (f"{out}.{part}" for part in ("float", "square", "mean", "shifted", "root", "quotient", "rounded"))
        wide, square, mean, shifted, root, quotient, rounded = step
        return [
            helper.make_node("Cast", [x], [wide], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [wide, wide], [square]),
            helper.make_node("ReduceMean", [square, self.last_axis], [mean], keepdims=1),
            helper.make_node("Add", [mean, epsilon], [shifted]),
            helper.make_node("Sqrt", [shifted], [root]),
            helper.make_node("Div", [wide, root], [quotient]),
            helper.make_node("CastLike", [quotient, scale], [rounded]),
            helper.make_node("Mul", [rounded, scale], [out]),
        ]

    def constant(self, name: str, array: Any) -> str:
        name = f"lowering.{name}"
        if all(tensor.name != name for tensor in self.graph.initializer):
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def _made_by(self, name: str, kind: str) -> onnx.NodeProto | None:
        producer = self.producers.get(name)
        return producer if producer is not None and producer.op_type == kind else None

    def _swaps(self, n: onnx.NodeProto) -> bool:
        return n.op_type == "Transpose" and any(a.name == "perm" and list(a.ints) == _SWAPPED for a in n.attribute)

    def _unknown(self, n: onnx.NodeProto) -> TargetError:
        return TargetError(
            f"{n.op_type} {n.output[0]} stands in a place where no plugin can take over.",
            cause="the graph is of another version of flextron-export",
            fix="export again, or use TensorRT 10.15 or newer",
        )


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    """The nodes of a graph and of its branches."""
    for n in graph.node:
        yield n
        for a in n.attribute:
            if a.HasField("g"):
                yield from _nodes(a.g)


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Take out nodes and initializers of the outermost graph that nothing uses: masks, and what they were made from."""
    used = {value.name for value in graph.output}
    kept = []
    for n in reversed(graph.node):
        if used.intersection(n.output):
            kept.append(n)
            used.update(n.input)
            used.update(name for a in n.attribute if a.HasField("g") for inner in _nodes(a.g) for name in inner.input)
            used.update(value.name for a in n.attribute if a.HasField("g") for value in a.g.output)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
