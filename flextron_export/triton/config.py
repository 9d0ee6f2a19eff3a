"""`config.pbtxt`: what Triton must know about the model, in protobuf's text format."""

from __future__ import annotations

import json
from collections.abc import Mapping

INPUTS = {
    "text_input": ("TYPE_STRING", 1),
    "input_ids": ("TYPE_INT64", -1),
    "messages": ("TYPE_STRING", 1),
    "max_tokens": ("TYPE_INT32", 1),
    "temperature": ("TYPE_FP32", 1),
    "top_k": ("TYPE_INT32", 1),
    "top_p": ("TYPE_FP32", 1),
    "min_p": ("TYPE_FP32", 1),
    "repetition_penalty": ("TYPE_FP32", 1),
    "seed": ("TYPE_INT64", 1),
    "stop": ("TYPE_STRING", -1),
    "ignore_eos": ("TYPE_BOOL", 1),
    "stream": ("TYPE_BOOL", 1),
    "latency_target": ("TYPE_STRING", 1),
    "latency_target_ms": ("TYPE_FP32", 1),
    "budget": ("TYPE_STRING", 1),
    "best_effort": ("TYPE_BOOL", 1),
}
"""name -> type and length; all are optional, but one of the first three must be given."""
OUTPUTS = ("text_output", "budget", "reason", "finish_reason")
"""One string each."""


def config_text(name: str, parameters: Mapping[str, str], *, gpu: bool) -> str:
    """The file.

    Args:
        name: of the model.
        parameters: for the model, see backend.py.
        gpu: the target computes on a GPU.
    """
    lines = [f"name: {_text(name)}", 'backend: "python"', "max_batch_size: 0"]
    lines += ["model_transaction_policy { decoupled: true }"]
    for key, (kind, length) in INPUTS.items():
        lines.append(f"input {{ name: {_text(key)} data_type: {kind} dims: [ {length} ] optional: true }}")
    for key in OUTPUTS:
        lines.append(f"output {{ name: {_text(key)} data_type: TYPE_STRING dims: [ 1 ] }}")
    lines.append(f"instance_group {{ count: 1 kind: {'KIND_GPU' if gpu else 'KIND_CPU'} }}")
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}")
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    # JSON's escapes are those of protobuf's text format, as long as only ASCII is left.
    return json.dumps(value)
