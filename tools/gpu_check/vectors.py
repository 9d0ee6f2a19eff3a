"""Every vector of every operator through the C ABI, on tensors of the GPU.

    python -m tools.gpu_check.vectors LIBRARY

A process of its own, so that compute-sanitizer can watch it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch

from flextron_export.plugins import Plugins
from tests.plugins import (
    elastic_linear_cases,
    elastic_linear_run,
    head_subset_attention_cases,
    head_subset_attention_run,
)
from tests.plugins.running import STORAGE, Memory


class DeviceMemory(Memory):
    """Arrays as torch tensors on the GPU; reading one back waits for what was enqueued before."""

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()
        self._device = device
        self._tensors: dict[str, torch.Tensor] = {}

    def place(self, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        for name, array in arrays.items():
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self._tensors[name] = torch.from_numpy(flat.copy()).to(self._device)
            self._arrays[name] = array
        return {name: self._tensors[name].data_ptr() for name in arrays}

    def read(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        return self._tensors[name].cpu().numpy().view(array.dtype).reshape(array.shape)


def run_vectors(plugins: Plugins, memory: Callable[[], Memory] = DeviceMemory) -> tuple[int, list[str]]:
    """How many cases ran, and what was wrong with them."""
    count, found = 0, []
    for cases, runs in (
        (elastic_linear_cases.load(), elastic_linear_run),
        (head_subset_attention_cases.load(), head_subset_attention_run),
    ):
        for case, data in cases.values():
            for data_type in STORAGE:
                count += 1
                problems = runs.differences(plugins, case, data, data_type, memory())
                found += [f"{runs.__name__.rsplit('.', 1)[-1]}, {data_type}, {case.name}: {text}" for text in problems]
    return count, found


def main() -> None:
    count, found = run_vectors(Plugins(sys.argv[1]))
    print("\n".join([*found, f"{len(found)} differences in {count} cases"]))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
