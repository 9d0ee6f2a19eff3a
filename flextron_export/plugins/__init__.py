"""The libraries of `plugins/`: kernels through their C ABI, and the operators for ONNX Runtime."""

from .custom_ops import register_onnxruntime
from .kernels import (
    ACTIVATIONS,
    DATA_TYPES,
    OPERATIONS,
    WEIGHT_TYPES,
    ElasticLinear,
    HeadSubsetAttention,
    Parameters,
    Plugins,
)

__all__ = [
    "ACTIVATIONS",
    "DATA_TYPES",
    "OPERATIONS",
    "WEIGHT_TYPES",
    "ElasticLinear",
    "HeadSubsetAttention",
    "Parameters",
    "Plugins",
    "register_onnxruntime",
]
