"""Run all vectors through the custom ops for ONNX Runtime, on the CPU.

    python -m tests.plugins.onnxruntime_run build/plugins/libflextron_onnxruntime_ops.so

A process of its own, so that a library with sanitizers can be preloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import elastic_linear_cases, elastic_linear_run, graphs, head_subset_attention_cases, head_subset_attention_run
from .running import STORAGE

LINEAR, ATTENTION = elastic_linear_cases.load(), head_subset_attention_cases.load()


def differences(library: Path, case: Any, data: dict[str, np.ndarray], data_type: str, threads: int = 1) -> list[str]:
    """What is wrong with the result of one case, in words; empty if it passes. Caches are updated in place."""
    model, inputs = graphs.model_of(case, data, data_type)
    del model.functions[:]
    opened = graphs.session(model, library, threads)
    output = np.full(data["output"].shape, np.nan, STORAGE[data_type])
    if isinstance(case, elastic_linear_cases.Case):
        graphs.run(opened, inputs, {"output": output})
        return elastic_linear_run.wrong(output, data, data_type)
    inputs |= {name: inputs[name].copy() for name in ("key_cache", "value_cache")}
    caches = {f"{name}_out": inputs[name] for name in ("key_cache", "value_cache")}
    graphs.run(opened, inputs, {"output": output, **caches})
    return head_subset_attention_run.wrong({"output": output, **inputs}, case, data, data_type)


def main() -> None:
    library = Path(sys.argv[1])
    failures = 0
    for case, data in (*LINEAR.values(), *ATTENTION.values()):
        for data_type in STORAGE:
            for difference in differences(library, case, data, data_type, threads=2):
                failures += 1
                print(f"FAILED {data_type}: {case.name}: {difference}")
    print(f"{failures} differences")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
