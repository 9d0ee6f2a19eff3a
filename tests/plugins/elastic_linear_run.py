"""Run the ElasticLinear vectors through a kernel library on this machine's memory, that is, an emulated one.

    python -m tests.plugins.elastic_linear_run build/plugins/libflextron_plugins_emulated.so

A process of its own, so that a library with sanitizers can be preloaded.
"""

from __future__ import annotations

import numpy as np

from flextron_export.plugins import ACTIVATIONS, DATA_TYPES, OPERATIONS, WEIGHT_TYPES, ElasticLinear, Plugins

from .elastic_linear_cases import Case, load
from .running import STORAGE, Memory, main, run

# Relative to the largest output: the order of sums; storage, of activations between the halves too.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


def parameters(case: Case, data_type: str, active: np.ndarray, **addresses: int) -> ElasticLinear:
    """The parameter struct of a case; `addresses` are those of its tensors."""
    strides = (case.length, 1) if active.ndim == 2 else (int(len(active) > 1), 0)
    return ElasticLinear(
        operation=OPERATIONS[case.operation],
        data_type=DATA_TYPES[data_type],
        weight_type=WEIGHT_TYPES[case.bits],
        group_size=case.group,
        batch=case.batch,
        length=case.length,
        hidden=case.hidden,
        rows=case.rows,
        activation=ACTIVATIONS[case.activation],
        active_rows_batch_stride=strides[0],
        active_rows_token_stride=strides[1],
        addend_token_stride=case.hidden if case.addend == "token" else 0,
        **addresses,
    )


def differences(
    plugins: Plugins, case: Case, data: dict[str, np.ndarray], data_type: str, memory: Memory | None = None
) -> list[str]:
    """What is wrong with the result of one case, in words; empty if it passes."""
    memory = memory or Memory()
    floating = {name: x.astype(STORAGE[data_type]) for name, x in data.items() if x.dtype.kind == "f"}
    addresses = memory.place({**data, **floating, "output": np.full_like(floating["output"], np.nan)})
    run(plugins, parameters(case, data_type, data["active_rows"], **addresses), memory)
    return wrong(memory.read("output"), data, data_type)


def wrong(output: np.ndarray, data: dict[str, np.ndarray], data_type: str) -> list[str]:
    """What is wrong with an output, in words."""
    expected = data["output"]
    error = np.abs(output.astype(np.float64) - expected).max() / max(np.abs(expected).max(), 1e-30)
    return [] if error <= TOLERANCE[data_type] else [f"output differs by {error:.1e} of the largest"]


if __name__ == "__main__":
    main(load(), differences)
