"""The operators as ONNX functions of standard operators: ONNX Runtime passes the vectors of the kernels."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from flextron_export.graph.operators import functions

from . import elastic_linear_cases, head_subset_attention_cases
from .head_subset_attention_run import TOLERANCE
from .running import STORAGE

LINEAR, ATTENTION = elastic_linear_cases.load(), head_subset_attention_cases.load()


def one_node(
    function: onnx.FunctionProto, inputs: dict[str, np.ndarray], *, dynamic: bool = True, **attributes: object
) -> bytes:
    """A model with one node; every dimension of every input is dynamic, or that of the array."""
    helper = onnx.helper
    ranks = {name: 4 if len(function.output) == 3 else 3 for name in function.output}
    float_type = helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    graph = helper.make_graph(
        [functions.node(function, function.input, function.output, **attributes)],
        "one_node",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(x.dtype), [None] * x.ndim if dynamic else x.shape
            )
            for name, x in inputs.items()
        ],
        [helper.make_tensor_value_info(name, float_type, [None] * rank) for name, rank in ranks.items()],
    )
    opsets = [helper.make_opsetid("", functions.OPSET), helper.make_opsetid(functions.DOMAIN, functions.VERSION)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=11)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def call(function: onnx.FunctionProto, inputs: dict[str, np.ndarray], **attributes: object) -> list[np.ndarray]:
    """The outputs of a model with one node on ONNX Runtime."""
    model = one_node(function, inputs, **attributes)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def linear_function(case: elastic_linear_cases.Case) -> onnx.FunctionProto:
    present = {"bits": case.bits, "bias": case.bias, "addend": bool(case.addend)}
    if case.operation == "feed_forward":
        return functions.elastic_feed_forward(case.activation, **present)
    return functions.elastic_linear(case.operation, **present)


@pytest.mark.parametrize("data_type", ["float32", "float16"])
def test_the_elastic_functions_pass_the_vectors(data_type: str) -> None:
    for name, (case, data) in LINEAR.items():
        function = linear_function(case)
        names = {"weight": "up", "scales": "up_scales", "bias": "up_bias"}
        if case.operation == "inputs":
            names = {"weight": "down", "scales": "down_scales"}
        arrays = [data[names.get(each, each)] for each in function.input]
        stored = [x.astype(STORAGE[data_type]) if x.dtype.kind == "f" else x for x in arrays]
        (output,) = call(function, dict(zip(function.input, stored, strict=True)))
        error = np.abs(output - data["output"]).max() / max(np.abs(data["output"]).max(), 1e-30)
        assert error <= {"float32": 1e-5, "float16": 3e-3}[data_type], name


@pytest.mark.parametrize("data_type", ["float32", "float16"])
def test_the_attention_function_passes_the_vectors(data_type: str) -> None:
    for name, (case, data) in ATTENTION.items():
        function = functions.head_subset_attention(rotary=case.rotary)
        stored = {
            key: data[key].astype(STORAGE[data_type]) if data[key].dtype.kind == "f" else data[key]
            for key in function.input
        }
        output, key_cache, value_cache = call(function, stored, window=case.window, scale=case.scale)
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
    if name in LINEAR:
        case, data = LINEAR[name]
        function, attributes = linear_function(case), {}
    else:
        case, data = ATTENTION[name]
        function = functions.head_subset_attention(rotary=case.rotary)
        attributes = {"window": case.window, "scale": case.scale}
    inputs = {key: data[key] for key in function.input}
    stored = {key: x.astype(np.float16) if x.dtype.kind == "f" else x for key, x in inputs.items()}
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(one_node(function, stored, dynamic=False, **attributes))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None
