"""Vectors as ONNX models of one node, and running them on ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime

from flextron_export.graph.operators import functions
from flextron_export.plugins import register_onnxruntime

from . import elastic_linear_cases, head_subset_attention_cases
from .running import STORAGE

TENSOR_TYPES = {np.dtype(ml_dtypes.bfloat16): onnx.TensorProto.BFLOAT16}


def tensor_type(dtype: np.dtype) -> int:
    return TENSOR_TYPES.get(dtype) or onnx.helper.np_dtype_to_tensor_dtype(dtype)


def one_node(
    function: onnx.FunctionProto, inputs: dict[str, np.ndarray], *, dynamic: bool = True, **attributes: object
) -> onnx.ModelProto:
    """A model with one node; every dimension of every input is dynamic, or that of the array."""
    helper = onnx.helper
    ranks = {name: 4 if len(function.output) == 3 else 3 for name in function.output}
    float_type = tensor_type(next(iter(inputs.values())).dtype)
    graph = helper.make_graph(
        [functions.node(function, function.input, function.output, **attributes)],
        "one_node",
        [
            helper.make_tensor_value_info(name, tensor_type(x.dtype), [None] * x.ndim if dynamic else x.shape)
            for name, x in inputs.items()
        ],
        [helper.make_tensor_value_info(name, float_type, [None] * rank) for name, rank in ranks.items()],
    )
    opsets = [helper.make_opsetid("", functions.OPSET), helper.make_opsetid(functions.DOMAIN, functions.VERSION)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=11)
    onnx.checker.check_model(model, full_check=True)
    return model


def model_of(
    case: Any, data: dict[str, np.ndarray], data_type: str, *, dynamic: bool = True
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model of a case of either kind, with the function's body, and its inputs in a storage type."""
    attributes: dict[str, object] = {}
    names: dict[str, str] = {}
    if isinstance(case, head_subset_attention_cases.Case):
        function = functions.head_subset_attention(rotary=case.rotary)
        attributes = {"window": case.window, "scale": case.scale}
    else:
        function, names = linear_function(case)
    inputs = {name: data[names.get(name, name)] for name in function.input}
    stored = {name: x.astype(STORAGE[data_type]) if x.dtype.kind == "f" else x for name, x in inputs.items()}
    return one_node(function, stored, dynamic=dynamic, **attributes), stored


def linear_function(case: elastic_linear_cases.Case) -> tuple[onnx.FunctionProto, dict[str, str]]:
    """The function of a case, and the names of its inputs in the vectors where they differ."""
    present = {"bits": case.bits, "bias": case.bias, "addend": bool(case.addend)}
    if case.operation == "feed_forward":
        return functions.elastic_feed_forward(case.activation, **present), {}
    weight = "up" if case.operation == "outputs" else "down"
    function = functions.elastic_linear(case.operation, **present)
    return function, {"weight": weight, "scales": f"{weight}_scales", "bias": "up_bias"}


def session(model: onnx.ModelProto, library: Path | None = None, threads: int = 1) -> onnxruntime.InferenceSession:
    """On the CPU; with the custom ops of a library."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if library is not None:
        register_onnxruntime(options, path=library)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(
    opened: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run with all buffers bound, as the runner does: `outputs` are written, and may be inputs at the same time."""
    binding = opened.io_binding()
    for name, x in inputs.items():
        binding.bind_input(name, "cpu", 0, tensor_type(x.dtype), x.shape, x.ctypes.data)
    for name, x in outputs.items():
        binding.bind_output(name, "cpu", 0, tensor_type(x.dtype), x.shape, x.ctypes.data)
    opened.run_with_iobinding(binding)
    return outputs
