"""A lowered graph computes the same, needs no operator beyond opset 20 but ours, and refuses what it does not know."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import TargetError
from flextron_export.graph.contract import LAYOUTS
from flextron_export.graph.operators.functions import DOMAIN
from flextron_export.graph.plugin_lowering import NEWER, OPSET, lower_to_plugins
from flextron_export.targets.onnxruntime_cpu import open_session
from tests.elastic_models import FAMILIES

from .conftest import Exported

GRAPHS = [("shared", "fp32"), ("panels", "fp16"), ("per-budget", "fp16")]
BUDGETS = ("full", "crossed")


def lowered_bundle(bundle: Bundle, out: Path) -> Bundle:
    """A copy whose graphs are lowered, with the operator's function for ONNX Runtime."""
    shutil.copytree(bundle.path, out)
    for layout, dtype in GRAPHS:
        for path in {bundle.graph(layout, dtype, name) for name in BUDGETS}:
            model = onnx.load(str(path), load_external_data=False)
            lowered = lower_to_plugins(model, bundle.architecture, bodies=True)
            (out / path.relative_to(bundle.path)).write_bytes(lowered.SerializeToString())
    return replace(bundle, path=out)


def run(bundle: Bundle, layout: str, dtype: str) -> list[np.ndarray]:
    """Logits of two budgets over a prefill of unequal prompts, a piece and a decode step."""
    draw = np.random.default_rng(1)
    ids = draw.integers(0, 257, (3, 12))
    session = open_session(bundle, layout=layout, dtype=dtype, threads=1)
    found = []
    for budget in map(bundle.budget, BUDGETS):
        cache = session.new_cache(budget, 3, 16)
        start = np.array([0, 1, 2])  # every sequence at slots of its own
        for count in (9, 2, 1):
            positions = start[:, None] + np.arange(count)
            logits = session.step(cache, ids[:, :count], positions, start, np.arange(3 * count))
            found.append(logits.copy())
            start = start + count
    session.close()
    return found


@pytest.mark.parametrize("model", FAMILIES, indirect=True)
def test_a_lowered_graph_computes_the_same(model: Exported, tmp_path: Path) -> None:
    lowered = lowered_bundle(model.bundle, tmp_path / "bundle")
    for layout, dtype in GRAPHS:
        for found, expected in zip(run(lowered, layout, dtype), run(model.bundle, layout, dtype), strict=True):
            # Slots before a sequence's first hold zeros in both; only the order of roundings differs.
            atol = (1e-5 if dtype == "fp32" else 4e-3) * np.abs(expected).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_tensorrt_gets_is_one_plugin_per_layer_and_opset_20(grouped: Exported, layout: str) -> None:
    bundle = grouped.bundle
    before = onnx.load(str(bundle.graph(layout, "fp16", "full")), load_external_data=False)
    untouched = before.SerializeToString()
    after = lower_to_plugins(before, bundle.architecture)
    assert before.SerializeToString() == untouched
    assert {o.domain: o.version for o in after.opset_import} == {"": OPSET, DOMAIN: 1} and not after.functions
    assert [v.name for v in after.graph.input] == [v.name for v in before.graph.input]
    assert list(after.graph.output) == list(before.graph.output)
    plugins = [n for n in after.graph.node if n.domain == DOMAIN]
    assert [n.op_type for n in plugins] == ["HeadSubsetAttention"] * bundle.architecture.num_layers
    assert plugins[1].output[1:] == ["k.1.out", "v.1.out"] and plugins[1].input[3:7] == [
        "k.1",
        "v.1",
        "positions",
        "write",
    ]
    kinds = {n.op_type for n in after.graph.node}
    assert not kinds & set(NEWER) and "Range" not in kinds  # nor is the mask made any more
    # Every operator is one of opset 20, in the branches of conditionals too.
    for n in after.graph.node:
        if n.domain == "":
            assert onnx.defs.get_schema(n.op_type, OPSET).since_version <= OPSET


@pytest.mark.parametrize("model", FAMILIES, indirect=True)
def test_rotary_tables_windows_and_norms_reach_the_plugin(model: Exported) -> None:
    bundle, a = model.bundle, model.bundle.architecture
    after = lower_to_plugins(onnx.load(str(bundle.graph("shared", "fp16")), load_external_data=False), a)
    plugins = [n for n in after.graph.node if n.domain == DOMAIN]
    for i, n in enumerate(plugins):
        attributes = {x.name: onnx.helper.get_attribute_value(x) for x in n.attribute}
        assert attributes["window"] == a.window(i) and attributes["scale"] == 0.0
        assert attributes["rotary"] == int(a.rope is not None) and len(n.input) == (10 if a.rope is not None else 8)
    kinds = [n.op_type for n in after.graph.node]
    norms = 0 if a.norm == "layer" else 2 * a.num_layers + 1
    assert kinds.count("ReduceMean") == norms + (2 * a.num_layers if a.qk_norm else 0)


def test_an_unknown_place_is_refused_by_name(grouped: Exported) -> None:
    bundle = grouped.bundle

    def graph() -> onnx.ModelProto:
        return onnx.load(str(bundle.graph("shared", "fp16")), load_external_data=False)

    capped = graph()
    attention = next(n for n in capped.graph.node if n.op_type == "Attention")
    attention.attribute.append(onnx.helper.make_attribute("softcap", 30.0))
    with pytest.raises(TargetError, match=r"Attention \S+ stands in a place where no plugin can take over"):
        lower_to_plugins(capped, bundle.architecture)

    quantised = graph()
    blocks = onnx.helper.make_node("DequantizeLinear", ["q", "s"], ["logits"], axis=0, block_size=32)
    quantised.graph.node.append(blocks)
    with pytest.raises(TargetError, match="quantised in groups, which opset 20 does not have"):
        lower_to_plugins(quantised, bundle.architecture)

    late = graph()
    first = next(n for n in late.graph.node if n.op_type == "Reshape")
    late.graph.node.append(onnx.helper.make_node("RotaryEmbedding", [first.output[0], "cos", "sin"], ["turned"]))
    late.graph.output.append(onnx.ValueInfoProto(name="turned"))
    with pytest.raises(TargetError, match="has RotaryEmbedding where no plugin takes its place"):
        lower_to_plugins(late, bundle.architecture)
