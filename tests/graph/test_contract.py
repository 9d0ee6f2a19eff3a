"""What goes in and out of a graph is what the contract says, for every layout."""

from __future__ import annotations

import onnx
import pytest

from flextron_export.elastic.widths import Budget, Candidates, LayerWidth
from flextron_export.graph.contract import (
    LAYOUTS,
    StepShape,
    cache_names,
    cache_shapes,
    choices,
    graph_file,
    input_shapes,
)

from .conftest import Exported

STEP = StepShape(batch=3, length=5, capacity=32, rows=2)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_graph_takes_the_shapes_of_the_contract_for_every_budget(grouped: Exported, layout: str, dtype: str) -> None:
    bundle = grouped.bundle
    for budget in bundle.budgets:
        graph = onnx.load(bundle.graph(layout, dtype, budget.name), load_external_data=False).graph
        wanted = input_shapes(layout, bundle.architecture, bundle.candidates, budget, STEP)
        given = {v.name: v.type.tensor_type for v in graph.input}
        assert set(given) == set(wanted)
        symbols: dict[str, int] = {}
        for name, shape in wanted.items():
            dims = given[name].shape.dim
            assert len(dims) == len(shape), name
            for dim, size in zip(dims, shape, strict=True):
                # A symbol stands for one size throughout a call.
                assert size == (symbols.setdefault(dim.dim_param, size) if dim.dim_param else dim.dim_value), name


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_graph_returns_float_logits_and_every_cache(grouped: Exported, layout: str, dtype: str) -> None:
    graph = onnx.load(grouped.bundle.graph(layout, dtype, "full"), load_external_data=False).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    wanted = onnx.TensorProto.FLOAT if dtype == "fp32" else onnx.TensorProto.FLOAT16
    caches = cache_names(grouped.bundle.architecture)
    assert [v.name for v in graph.output] == ["logits", *(f"{name}.out" for name in caches)]
    assert types["logits"] == onnx.TensorProto.FLOAT
    assert {types[name] for name in caches} == {types[f"{name}.out"] for name in caches} == {wanted}
    assert {types[name] for name in ("ids", "positions", "write", "rows")} == {onnx.TensorProto.INT64}


def test_caches_are_as_narrow_as_each_layer_of_the_budget(grouped: Exported) -> None:
    shapes = cache_shapes(grouped.bundle.architecture, grouped.bundle.budget("tapered"), 2, 48)
    assert shapes == {"k.0": (2, 4, 48, 16), "v.0": (2, 4, 48, 16), "k.1": (2, 3, 48, 16), "v.1": (2, 3, 48, 16)}


def test_panels_take_the_index_of_each_width_among_the_candidates() -> None:
    budget = Budget("mixed", (LayerWidth(4, 32), LayerWidth(2, 128)))
    found = choices("panels", Candidates((2, 3, 4), (32, 64, 128)), budget)
    assert {name: index.tolist() for name, index in found.items()} == {"groups": [2, 0], "neurons": [0, 2]}
    assert not choices("shared", Candidates((2, 3, 4), (32, 64, 128)), budget)


def test_graph_files_name_layout_budget_and_precision() -> None:
    assert graph_file("panels", "fp32") == "graphs/panels.fp32.onnx"
    assert graph_file("per-budget", "fp16", "p50") == "graphs/per-budget.p50.fp16.onnx"
