"""The comparison of tensors with Polygraphy: TensorRT-RTX compiles through its loaders; two runs of ONNX Runtime
stand for an engine and its reference, as there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import InputError
from flextron_export.targets._onnxruntime.loading import load_graph
from tests.targets.tensorrt_bundle import tensorrt_bundle
from tools import compare_tensors

pytest.importorskip("polygraphy")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tensorrt_bundle(tmp_path_factory.mktemp("compare"))


@pytest.mark.parametrize("layout", ["per-budget", pytest.param("shared", marks=pytest.mark.slow)])
def test_polygraphys_loaders_compile_a_graph_with_further_outputs(bundle: Bundle, layout: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    # A process of its own, as Polygraphy looks once which library is meant.
    options = ["--layout", layout, "--budget", "p50", "--outputs", "all", "--compile-only", "89"]
    command = [sys.executable, "tools/compare_tensors.py", str(bundle.path), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "compiled for SM 89" in done.stdout, done.stdout + done.stderr


def test_the_first_tensor_that_differs_is_the_faulty_nodes(bundle: Bundle) -> None:
    import onnx
    from polygraphy.backend.onnxrt import OnnxrtRunner
    from polygraphy.comparator import Comparator

    model, outputs = compare_tensors.read_graph(bundle, "shared", bundle.budgets[1], ["all"])
    for name in outputs:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    node = [n for n in wrong.graph.node if n.op_type == "RMSNormalization"][2]
    next(a for a in node.attribute if a.name == "epsilon").f = 10.0
    content = [m.SerializeToString() for m in (model, wrong)]
    runners = [
        OnnxrtRunner(lambda c=c: load_graph(bundle, c, threads=1), name=name)
        for name, c in zip("ab", content, strict=True)
    ]
    inputs = compare_tensors.feed(bundle, "shared", bundle.budgets[1], 5)
    rows = compare_tensors.differences(Comparator.run(runners, data_loader=[inputs]))
    assert {"logits", "k.0.out", *outputs} == {name for name, _, _ in rows} - {"v.0.out", "k.1.out", "v.1.out"}
    within = [(name, apart) for name, apart, _ in rows if name in outputs]
    assert next(name for name, apart in within if apart > 0) == node.output[0]


def test_a_tensor_that_is_not_there_is_named(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="no tensor 'Gemm'"):
        compare_tensors.read_graph(bundle, "shared", bundle.budgets[0], ["Gemm"])
