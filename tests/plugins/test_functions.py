"""The operators as ONNX functions of standard operators: ONNX Runtime passes the vectors of the kernels."""

from __future__ import annotations

import numpy as np
import pytest

from flextron_export.graph.operators import functions

from . import elastic_linear_cases, graphs, head_subset_attention_cases
from .head_subset_attention_run import TOLERANCE
from .running import STORAGE

LINEAR, ATTENTION = elastic_linear_cases.load(), head_subset_attention_cases.load()


def call(case: object, data: dict[str, np.ndarray], data_type: str) -> list[np.ndarray]:
    """The outputs of the function's body on ONNX Runtime."""
    model, inputs = graphs.model_of(case, data, data_type)
    return graphs.session(model).run(None, inputs)


@pytest.mark.parametrize("data_type", ["float32", "float16"])
def test_the_elastic_functions_pass_the_vectors(data_type: str) -> None:
    for name, (case, data) in LINEAR.items():
        (output,) = call(case, data, data_type)
        error = np.abs(output - data["output"]).max() / max(np.abs(data["output"]).max(), 1e-30)
        assert error <= {"float32": 1e-5, "float16": 3e-3}[data_type], name


@pytest.mark.parametrize("data_type", ["float32", "float16"])
def test_the_attention_function_passes_the_vectors(data_type: str) -> None:
    for name, (case, data) in ATTENTION.items():
        output, key_cache, value_cache = call(case, data, data_type)
        stored = {key: data[key].astype(STORAGE[data_type]) for key in ("value", "key_cache", "value_cache")}
        assert np.abs(output - data["output"]).max() <= TOLERANCE[data_type], name
        for b, past in enumerate(case.past):
            new = value_cache[b, :, past : past + case.length]
            np.testing.assert_array_equal(new, stored["value"][b].swapaxes(0, 1))
            for after, before in ((key_cache, stored["key_cache"]), (value_cache, stored["value_cache"])):
                np.testing.assert_array_equal(after[b, :, :past], before[b, :, :past])


def test_functions_of_one_model_are_told_apart_by_their_overload() -> None:
    made = [
        functions.elastic_linear(elastic, bits=bits, bias=elastic == "outputs", addend=elastic == "inputs")
        for elastic in ("outputs", "inputs")
        for bits in (0, 8, 4)
    ]
    assert len({(function.name, function.overload) for function in made}) == 6


@pytest.mark.parametrize("name", ["decode, residual", "decode, rotary"])
def test_tensorrt_rtx_compiles_the_functions(name: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    case, data = (LINEAR if name in LINEAR else ATTENTION)[name]
    model, _ = graphs.model_of(case, data, "float16", dynamic=False)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None
