"""A bundle in bfloat16 as the same graphs in float32: ONNX Runtime has no bfloat16 on CPUs, and verifies these instead.

Every node, and every weight's value, is that of the shipped graph; only the arithmetic is finer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.manifest import Bundle, weights_file
from ..elastic.safetensors import SafetensorsFile, TensorPlan, write_safetensors
from ..graph.contract import graph_file

NARROW, WIDE = "bf16", "fp32"


@contextmanager
def runnable(bundle: Bundle, dtype: str) -> Iterator[tuple[Bundle, str]]:
    """The bundle and the precision that ONNX Runtime computes in: those given, or for bf16 a copy in fp32."""
    if dtype != NARROW:
        yield bundle, dtype
        return
    with tempfile.TemporaryDirectory(prefix="flextron-bf16-") as directory:
        yield _widened(bundle, Path(directory)), WIDE


def _widened(bundle: Bundle, directory: Path) -> Bundle:
    narrow = bundle.weights(NARROW)
    plans = {name: TensorPlan("F32", info.shape, partial(_wide, narrow, name)) for name, info in narrow.tensors.items()}
    path = directory / weights_file(WIDE)
    write_safetensors(path, plans)
    wide = SafetensorsFile(path)
    (directory / "graphs").mkdir()
    layouts = bundle.layouts[NARROW]
    for layout in layouts:
        for budget in bundle.budgets_of(layout):
            name = budget.name if layout == "per-budget" else None
            content = _wide_graph(bundle.graph(layout, NARROW, budget.name), narrow, wide)
            (directory / graph_file(layout, WIDE, name)).write_bytes(content)
    return replace(bundle, path=directory, layouts={WIDE: layouts})


def _wide(narrow: SafetensorsFile, name: str) -> np.ndarray:
    return narrow[name].astype(np.float32)


def _wide_graph(graph: Path, narrow: SafetensorsFile, wide: SafetensorsFile) -> bytes:
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    places = sorted((info.offset, info.length, name) for name, info in narrow.tensors.items())

    def moved(offset: int) -> int:
        start, _, name = next(place for place in reversed(places) if place[0] <= offset)
        return wide.tensors[name].offset + 2 * (offset - start)

    _widen(model.graph, onnx, moved, wide.path.name)
    return bytes(model.SerializeToString())


def _widen(graph: Any, onnx: Any, moved: Any, file: str) -> None:
    """Change every bfloat16 in a graph and its branches to float."""
    narrow, wide = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT

    def tensor(value: Any) -> None:
        if value.data_type != narrow:
            return
        if value.external_data:
            entries = {e.key: e.value for e in value.external_data}
            del value.external_data[:]
            fields = {"location": file, "offset": moved(int(entries["offset"])), "length": 2 * int(entries["length"])}
            for key, text in fields.items():
                value.external_data.add(key=key, value=str(text))
            value.data_type = wide
        else:
            array = np.asarray(onnx.numpy_helper.to_array(value), np.float32)
            value.CopyFrom(onnx.numpy_helper.from_array(array, value.name))

    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type == narrow:
            info.type.tensor_type.elem_type = wide
    for value in graph.initializer:
        tensor(value)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == narrow:
                attribute.i = wide
            if attribute.HasField("t"):
                tensor(attribute.t)
            if attribute.HasField("g"):
                _widen(attribute.g, onnx, moved, file)
