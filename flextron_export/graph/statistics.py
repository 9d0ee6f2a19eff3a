"""What a graph consists of, for `inspect`. Needs onnx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError


@dataclass(frozen=True)
class GraphStatistics:
    """Counts of one graph.

    Attributes:
        nodes: of the graph and of all branches of its conditionals.
        operators: operator -> how many nodes, the most frequent first.
        weights: initializers that are ranges of the weights file.
        weight_bytes: bytes of these ranges together; ranges that overlap count twice.
        inputs, outputs: of the whole graph.
        bytes: of the graph's own file, which holds no weights.
    """

    nodes: int
    operators: dict[str, int]
    weights: int
    weight_bytes: int
    inputs: int
    outputs: int
    bytes: int


def graph_statistics(path: Path) -> GraphStatistics:
    """Count what a graph consists of.

    Raises:
        MissingDependencyError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError("onnx is not installed.", fix="pip install 'flextron-export[export]'") from error
    model = onnx.load(str(path), load_external_data=False)
    operators: Counter[str] = Counter()
    ranges = []
    for graph in _graphs(model.graph):
        operators.update(node.op_type for node in graph.node)
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                ranges.append({entry.key: entry.value for entry in tensor.external_data})
    return GraphStatistics(
        operators.total(),
        dict(operators.most_common()),
        len(ranges),
        sum(int(found["length"]) for found in ranges),
        len(model.graph.input),
        len(model.graph.output),
        path.stat().st_size,
    )


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and, at any depth, the branches of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
