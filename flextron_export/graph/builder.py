"""A thin layer over onnx_ir: operators as calls, constants once, weights as ranges of a file, `If` from functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from ..elastic.safetensors import TensorInfo
from ..version import __version__
from .contract import DTYPES, OPSET

ELEMENTS = {
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "U8": ir.DataType.UINT8,
    "I8": ir.DataType.INT8,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN,
}
"""safetensors dtype -> element type in a graph."""
INT64 = ir.DataType.INT64


class View(NamedTuple):
    """How the rows of a stored tensor are seen: their shape and the type of their elements."""

    row: tuple[int, ...]
    element: ir.DataType


class GraphBuilder:
    """Collects the nodes of one graph. Values are `onnx_ir.Value`s; names are made unique."""

    def __init__(self, name: str, dtype: str) -> None:
        self.name, self.float = name, ELEMENTS[DTYPES[dtype]]
        self.inputs: list[ir.Value] = []
        self.outputs: list[ir.Value] = []
        self._constants: dict[str, ir.Value] = {}
        self._weights: dict[str, ir.Value] = {}
        self._tapes = [ir.tape.Tape()]
        self._top: dict[tuple[Any, ...], ir.Value] = {}
        self._count = 0
        self._opsets = {"": OPSET}

    def input(self, name: str, shape: Sequence[int | str], dtype: ir.DataType | None = None) -> ir.Value:
        """A graph input; float of the graph's precision unless `dtype` is given."""
        value = ir.val(name, dtype=dtype or self.float, shape=shape)
        self.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, shape: Sequence[int | str], dtype: ir.DataType | None = None) -> None:
        """Make a value a graph output."""
        value.name, value.dtype, value.shape = name, dtype or self.float, ir.Shape(shape)
        self.outputs.append(value)

    def op(self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """One node with one output."""
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, count: int, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """One node with `count` outputs.

        Absent inputs at the end are left out, as some parsers do not take empty names.
        """
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        values = self._tapes[-1].op_multi_out(kind, inputs, attributes or None, num_outputs=count, domain=domain)
        for value in values:
            value.name = self._unique(kind)
        # TensorRT takes over names of nodes, and none may occur again in another branch.
        node = values[0].producer()
        assert node is not None
        node.name = values[0].name
        if domain:
            self._opsets[domain] = 1
        return values

    def split(self, value: ir.Value, count: int) -> Sequence[ir.Value]:
        """Cut the first dimension into that many equal parts."""
        return self.ops("Split", count, value, axis=0, num_outputs=count)

    def at_top(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """One node of the outermost graph, made once for the same inputs, wherever it is asked for."""
        key = (kind, *(v.name for v in inputs), *sorted(attributes.items()))
        if key not in self._top:
            value = self._tapes[0].op(kind, inputs, attributes or None)
            value.name = self._unique(kind)
            self._top[key] = value
        return self._top[key]

    def constant(self, values: Any, dtype: Any = np.int64) -> ir.Value:
        """A small constant, stored once for each content."""
        array = np.asarray(values, dtype)
        key = f"constant.{array.dtype}.{list(array.shape)}.{array.tolist()}"
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            self._constants[key] = ir.val(
                name,
                const_value=ir.tensor(array, name=name),
                dtype=ir.DataType.from_numpy(array.dtype),
                shape=array.shape,
            )
        return self._constants[key]

    def external(
        self,
        name: str,
        file: Path,
        info: TensorInfo,
        start: int = 0,
        stop: int | None = None,
        view: View | None = None,
    ) -> ir.Value:
        """Rows `start:stop` of a tensor in the weights file, as an initializer that refers to those bytes.

        It belongs to the graph that is being built: ONNX Runtime does not pre-pack what a branch of a branch takes from
        further outside.

        Args:
            name: of the initializer; asked for again, it is the same.
            view: how it is seen, if not as it is stored.
        """
        stop = info.shape[0] if stop is None else stop
        shape = ir.Shape((stop - start, *(view.row if view else info.shape[1:])))
        offset, length = info.offset + start * info.row_bytes, (stop - start) * info.row_bytes
        if name not in self._weights:
            tensor = ir.ExternalTensor(
                file.name,
                offset,
                length,
                view.element if view else ELEMENTS[info.dtype],
                shape=shape,
                name=name,
                base_dir=file.parent,
            )
            self._weights[name] = self._tapes[-1].initializer(tensor)
        return self._weights[name]

    def cond(
        self, condition: ir.Value, then: Callable[[], Sequence[ir.Value]], otherwise: Callable[[], Sequence[ir.Value]]
    ) -> tuple[ir.Value, ...]:
        """`If`: both functions build nodes that may use every value made so far and return equally many values."""
        branches = {"then_branch": self._subgraph("then", then), "else_branch": self._subgraph("else", otherwise)}
        count = len(branches["then_branch"].outputs)
        values = self._tapes[-1].op_multi_out("If", [condition], branches, num_outputs=count)
        for value in values:
            value.name = self._unique("If")
        return tuple(values)

    def _subgraph(self, kind: str, build: Callable[[], Sequence[ir.Value]]) -> ir.Graph:
        self._tapes.append(ir.tape.Tape())
        values = build()
        made = {id(v) for node in self._tapes[-1].nodes for v in node.outputs}
        # A branch must make what it returns: a value from outside is passed through `Identity`.
        outputs = [v if id(v) in made else self.op("Identity", v) for v in values]
        tape = self._tapes.pop()
        return ir.Graph([], outputs, nodes=tape.nodes, initializers=tape.initializers, name=self._unique(kind))

    def _unique(self, kind: str) -> str:
        self._count += 1
        return f"{kind}.{self._count}"

    def model(self) -> ir.Model:
        """The finished model."""
        graph = ir.Graph(
            self.inputs,
            self.outputs,
            nodes=self._tapes[0].nodes,
            initializers=[*self._constants.values(), *self._tapes[0].initializers],
            opset_imports=self._opsets,
            name=self.name,
        )
        return ir.Model(graph, ir_version=11, producer_name="flextron_export", producer_version=__version__)
