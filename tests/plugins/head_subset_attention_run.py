"""Run the HeadSubsetAttention vectors through a kernel library on this machine's memory, that is, an emulated one.

    python -m tests.plugins.head_subset_attention_run build/plugins/libflextron_plugins_emulated.so

A process of its own, so that a library with sanitizers can be preloaded.
"""

from __future__ import annotations

import numpy as np

from flextron_export.graph.operators.head_subset_attention import head_subset_attention
from flextron_export.plugins import DATA_TYPES, HeadSubsetAttention, Plugins

from .head_subset_attention_cases import Case, load
from .running import STORAGE, Memory, main, run

# Of the output, whose size is about 1: rounding of the vectors; of storage; of storage and of the rotated keys.
TOLERANCE = {"float32": 2e-4, "float16": 2e-3, "bfloat16": 2e-2}


def parameters(case: Case, data_type: str, active: np.ndarray, **addresses: int) -> HeadSubsetAttention:
    """The parameter struct of a case; `addresses` are those of its tensors."""
    strides = (case.length, 1) if active.ndim == 2 else (int(len(active) > 1), 0)
    return HeadSubsetAttention(
        data_type=DATA_TYPES[data_type],
        batch=len(case.past),
        length=case.length,
        groups=case.groups,
        heads_per_group=case.heads_per_group,
        head_dim=case.head_dim,
        capacity=case.capacity,
        window=case.window,
        scale=case.scale,
        active_groups_batch_stride=strides[0],
        active_groups_token_stride=strides[1],
        **addresses,
    )


def differences(
    plugins: Plugins, case: Case, data: dict[str, np.ndarray], data_type: str, memory: Memory | None = None
) -> list[str]:
    """What is wrong with the result of one case, in words; empty if it passes."""
    memory = memory or Memory()
    floating = {name: x.astype(STORAGE[data_type]) for name, x in data.items() if x.dtype.kind == "f"}
    addresses = memory.place({**data, **floating, "output": np.full_like(floating["query"], np.nan)})
    run(plugins, parameters(case, data_type, data["active_groups"], **addresses), memory)
    got = {name: memory.read(name) for name in ("output", "key_cache", "value_cache")}
    return wrong(got, case, data, data_type)


def wrong(got: dict[str, np.ndarray], case: Case, data: dict[str, np.ndarray], data_type: str) -> list[str]:
    """What is wrong with the output and the caches, in words."""
    found = []
    error = np.abs(got["output"].astype(np.float64) - data["output"]).max()
    if not error <= TOLERANCE[data_type]:
        found.append(f"output differs by {error:.1e}")
    inputs = {name: x for name, x in data.items() if name != "output"}
    stored = {name: data[name].astype(STORAGE[data_type]) for name in ("key_cache", "value_cache")}
    _, *caches = head_subset_attention(**{**inputs, **stored}, window=case.window, scale=case.scale)
    for name, expected in zip(("key_cache", "value_cache"), caches, strict=True):
        bits = np.uint32 if data_type == "float32" else np.uint16
        touched = got[name].view(bits) != stored[name].view(bits)
        for b, past in enumerate(case.past):
            touched[b, :, past : past + case.length] = False
        if touched.any():
            found.append(f"{name}: a slot of the past changed")
        rounding = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[data_type]
        if not np.allclose(got[name].astype(np.float64), expected.astype(np.float64), rtol=rounding, equal_nan=True):
            found.append(f"{name}: a new slot is wrong")
    return found


if __name__ == "__main__":
    main(load(), differences)
