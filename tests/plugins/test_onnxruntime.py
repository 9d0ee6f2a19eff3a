"""The operators as custom ops of ONNX Runtime, on the CPU: against the vectors, and how they refuse."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from flextron_export.errors import MissingDependencyError
from flextron_export.plugins import register_onnxruntime
from flextron_export.plugins.custom_ops import LIBRARY

from . import graphs
from .conftest import build_onnxruntime_ops
from .onnxruntime_run import ATTENTION, LINEAR, differences
from .running import STORAGE, run_under_sanitizers


@pytest.mark.parametrize("data_type", STORAGE)
def test_the_custom_ops_pass_the_vectors(onnxruntime_ops: Path, data_type: str) -> None:
    found = {
        case.name: problems
        for case, data in (*LINEAR.values(), *ATTENTION.values())
        if (problems := differences(onnxruntime_ops, case, data, data_type))
    }
    assert not found


@pytest.mark.parametrize("name", ["prefill, several large tiles", "short chunk, n per token", "decode, int4, wide"])
def test_threads_change_no_bit(onnxruntime_ops: Path, name: str) -> None:
    case, data = (LINEAR | ATTENTION)[name]
    model, inputs = graphs.model_of(case, data, "float32")
    alone, shared = (graphs.session(model, onnxruntime_ops, threads).run(None, inputs) for threads in (1, 4))
    for one, many in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(one, many)


def test_a_registered_operator_runs_instead_of_the_body_in_the_model(onnxruntime_ops: Path) -> None:
    case, data = ATTENTION["decode"]
    model, inputs = graphs.model_of(case, data, "float32")
    narrow = {name: x[..., :32].copy() if x.ndim == 4 else x for name, x in inputs.items()}
    assert graphs.session(model).run(None, narrow)[0].shape[-1] == 32  # the body takes any size
    with pytest.raises(Exception, match="HeadSubsetAttention: head_dim: 64, 96, 128 and 256 are supported"):
        graphs.session(model, onnxruntime_ops).run(None, narrow)


def test_caches_that_are_not_updated_in_place_are_copied(onnxruntime_ops: Path) -> None:
    case, data = ATTENTION["decode"]
    model, inputs = graphs.model_of(case, data, "float32")
    before = {name: x.copy() for name, x in inputs.items()}
    output, key_cache, _ = graphs.session(model, onnxruntime_ops).run(None, inputs)
    np.testing.assert_allclose(output, data["output"], atol=2e-4)
    for name, x in inputs.items():
        np.testing.assert_array_equal(x, before[name])
    past = case.past[0]
    np.testing.assert_array_equal(key_cache[0, :, past], data["key"][0, 0].astype(np.float32))
    np.testing.assert_array_equal(key_cache[:, :, :past], before["key_cache"][:, :, :past])


def test_an_empty_batch_gives_an_empty_result(onnxruntime_ops: Path) -> None:
    case, data = LINEAR["decode"]
    model, inputs = graphs.model_of(case, data, "float32")
    (output,) = graphs.session(model, onnxruntime_ops).run(None, {**inputs, "input": inputs["input"][:0]})
    assert output.shape == (0, 1, case.hidden)


def refused(model: onnx.ModelProto, library: Path, **attributes: object) -> str:
    """What a session says about the model after its node's attributes were changed."""
    node = model.graph.node[0]
    for name, value in attributes.items():
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    with pytest.raises(Exception) as caught:
        graphs.session(model, library)
    return str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"window": -1}, "window must not be negative"),
        ({"window": "all"}, "attribute window has an unsupported type"),
        ({"rotary": 1}, "the number of inputs and outputs must be what the attributes say"),
    ],
)
def test_unusable_attributes_of_attention_are_refused_by_name(
    onnxruntime_ops: Path, attributes: dict[str, object], message: str
) -> None:
    model, _ = graphs.model_of(*ATTENTION["decode"], "float32")
    assert f"HeadSubsetAttention: {message}" in refused(model, onnxruntime_ops, **attributes)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"elastic": "sideways"}, "attribute elastic must be outputs or inputs"),
        ({"bits": 3}, "bits must be 0, 4 or 8"),
        ({"addend": 1}, "outputs take a bias and no addend"),
        ({"bits": 1 << 40}, "bits must be 0, 4 or 8"),
    ],
)
def test_unusable_attributes_of_linear_are_refused_by_name(
    onnxruntime_ops: Path, attributes: dict[str, object], message: str
) -> None:
    model, _ = graphs.model_of(*LINEAR["outputs"], "float32")
    assert f"ElasticLinear: {message}" in refused(model, onnxruntime_ops, **attributes)


def test_integer_weights_without_bits_are_refused_by_name(onnxruntime_ops: Path) -> None:
    model, _ = graphs.model_of(*LINEAR["outputs"], "float32")
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT8
    assert "ElasticLinear: input 1 has a type that is not supported" in refused(model, onnxruntime_ops)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("write", (3,), "positions must be"),
        ("active_groups", (5,), "active_groups must be"),
        ("value", (1, 1, 2, 32), "shapes must be query"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused_by_name(
    onnxruntime_ops: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    model, inputs = graphs.model_of(*ATTENTION["decode"], "float32")
    wrong = {**inputs, name: np.zeros(shape, inputs[name].dtype)}
    with pytest.raises(Exception, match=f"HeadSubsetAttention: {message}"):
        graphs.session(model, onnxruntime_ops).run(None, wrong)


def test_a_library_that_is_not_there_is_an_error_with_the_path_and_the_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXTRON_PLUGINS", str(tmp_path))
    with pytest.raises(MissingDependencyError) as caught:
        register_onnxruntime(onnxruntime.SessionOptions())
    assert f"{LIBRARY} cannot be found in {tmp_path}" in str(caught.value)
    assert "HeadSubsetAttention, ElasticLinear, ElasticFeedForward" in str(caught.value)
    assert "--target flextron_onnxruntime_ops" in str(caught.value)


def test_the_library_is_found_where_the_variable_says(onnxruntime_ops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXTRON_PLUGINS", str(onnxruntime_ops.parent))
    assert register_onnxruntime(onnxruntime.SessionOptions()) == onnxruntime_ops


def test_a_file_that_is_no_such_library_is_an_error_with_its_path(tmp_path: Path) -> None:
    broken = tmp_path / LIBRARY
    broken.write_bytes(b"\x7fELF")
    for path in (broken, Path(ctypes.util.find_library("m") or "libm.so.6")):
        with pytest.raises(MissingDependencyError, match=path.name):
            register_onnxruntime(onnxruntime.SessionOptions(), path=path)


def test_a_provider_without_kernels_is_an_error_with_its_name(onnxruntime_ops: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"has no kernels of .* for CUDAExecution"):
        register_onnxruntime(onnxruntime.SessionOptions(), ["CUDAExecutionProvider"], onnxruntime_ops)


@pytest.mark.slow
def test_the_custom_ops_are_clean_under_sanitizers() -> None:
    """Not under that for threads: it does not see how ONNX Runtime's own threads wait for each other."""
    sanitizers = "address,undefined"
    library = build_onnxruntime_ops(
        "plugins-sanitized", "-DCMAKE_BUILD_TYPE=Debug", f"-DFLEXTRON_SANITIZE={sanitizers}"
    )
    done = run_under_sanitizers(library, "tests.plugins.onnxruntime_run", sanitizers)
    assert done.returncode == 0, done.stdout + done.stderr
