"""bfloat16 is for TensorRT: its graphs are verified as the same graphs in float32, and refused on processors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from flextron_export.bundle.embedding import EmbeddingRows
from flextron_export.bundle.golden import read_golden
from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import TargetError, VerificationError
from flextron_export.exporting import export
from flextron_export.graph.contract import layouts_of
from flextron_export.targets import get_target
from flextron_export.targets.verify import verify, verify_bundle
from flextron_export.targets.widened import runnable
from tests.elastic_models import MODELS, elastic_model

from .conftest import Exported


def brain(kind: str, directory: Path) -> Exported:
    checkpoint = elastic_model(directory / "checkpoint", **MODELS[kind])
    return Exported(checkpoint, export(checkpoint.path, directory / "bundle", dtypes=["bf16"]))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return brain("grouped", tmp_path_factory.mktemp("bf16"))


def test_the_same_graphs_in_float32_compute_what_torch_computes_with_the_stored_weights(model: Exported) -> None:
    checks = verify(model.bundle.path)
    assert {(c.dtype, c.layout) for c in checks} == {("bf16", n) for n in ("panels", "shared", "per-budget")}
    assert max(c.difference for c in checks) < 1e-5
    assert {c.tolerance for c in checks} == {1e-4}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_is_verified(kind: str, tmp_path: Path) -> None:
    assert verify(brain(kind, tmp_path).bundle.path)


def test_a_wrong_graph_is_noticed(model: Exported, tmp_path: Path) -> None:
    bundle = Bundle.open(shutil.copytree(model.bundle.path, tmp_path / "bundle"))
    path = bundle.graph("shared", "bf16")
    graph = onnx.load(path, load_external_data=False)
    next(n for n in graph.graph.node if n.op_type == "LessOrEqual").op_type = "Less"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(VerificationError, match="shared bf16"):
        verify_bundle(bundle, {"bf16": read_golden(bundle, "bf16")})


def test_everything_but_rotary_angles_is_bfloat16(model: Exported) -> None:
    graph = onnx.load(model.bundle.graph("panels", "bf16"), load_external_data=False).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert types.pop("logits") == onnx.TensorProto.FLOAT
    assert {t for name, t in types.items() if name[:2] in ("k.", "v.")} == {onnx.TensorProto.BFLOAT16}
    with runnable(model.bundle, "bf16") as (wide, dtype):
        assert dtype == "fp32"
        narrow = model.bundle.weights("bf16")
        for name in narrow.tensors:
            np.testing.assert_array_equal(wide.weights("fp32")[name], narrow[name].astype(np.float32))
    assert not wide.path.exists()


def test_processors_refuse_it(model: Exported) -> None:
    with pytest.raises(TargetError, match=r"onnxruntime-cpu does not run bf16\.(.|\n)*--dtype fp32"):
        get_target("onnxruntime-cpu").check(model.bundle, "panels", "bf16")
    assert layouts_of("bf16") == ("panels", "shared", "per-budget")


def test_rows_of_the_embedding_are_read_in_any_precision(model: Exported, tmp_path: Path) -> None:
    exact = export(model.checkpoint.path, tmp_path / "fp32", dtypes=["fp32"], layouts=["panels"], verify=False)
    tokens = np.array([3, 0, 200])
    rows = EmbeddingRows(exact)[tokens]
    for dtype, lost in (("bf16", 0.01), ("int8", 0.02), ("int4", 0.2), ("int4-fp16", 0.2), ("fp8-fp16", 0.06)):
        bundle = export(model.checkpoint.path, tmp_path / dtype, dtypes=[dtype], layouts=["panels"], verify=False)
        found = EmbeddingRows(bundle)[tokens]
        assert found.dtype == np.float32 and found.shape == rows.shape
        assert np.linalg.norm(found - rows) < lost * np.linalg.norm(rows), dtype
