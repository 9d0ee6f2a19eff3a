"""Building the kernels for the CPU and running vectors through them, for every operator."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flextron_export.plugins import Parameters, Plugins

ROOT = Path(__file__).parents[2]
STORAGE: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


class Memory:
    """Where a call's arrays lie: here, on this machine."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def place(self, arrays: dict[str, np.ndarray]) -> dict[str, int]:
        """Name -> address."""
        self._arrays |= arrays
        return {name: array.ctypes.data for name, array in arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """An array as it is after the call."""
        return self._arrays[name]


def build(directory: Path, *options: str) -> Path:
    """The kernels as C++ for the CPU."""
    library = directory / "libflextron_plugins_emulated.so"
    command = ["g++", "-std=c++20", "-fPIC", "-shared", "-pthread", "-fno-strict-aliasing", "-Wno-unknown-pragmas"]
    subprocess.run([*command, *options, ROOT / "plugins/emulated.cpp", "-o", library], check=True)
    return library


def run(plugins: Plugins, parameters: Parameters, memory: Memory) -> None:
    """One call with a workspace of the right size, filled with NaN."""
    size = plugins.workspace(parameters)
    workspace = memory.place({"workspace": np.full(-(-size // 4), np.nan, np.float32)})["workspace"]
    plugins.run(parameters, workspace, size)


def main(cases: dict[str, tuple[Any, dict[str, np.ndarray]]], differences: Callable[..., list[str]]) -> None:
    """Run all cases in every type through the library that the command line names, and exit with what failed."""
    plugins = Plugins(sys.argv[1])
    failures = 0
    for case, data in cases.values():
        for data_type in STORAGE:
            for difference in differences(plugins, case, data, data_type):
                failures += 1
                print(f"FAILED {data_type}: {case.name}: {difference}")
    print(f"{failures} differences in {len(cases)} cases of {len(STORAGE)} types")
    sys.exit(failures > 0)


def run_under_sanitizers(library: Path, module: str, sanitizers: str) -> subprocess.CompletedProcess[str]:
    """`python -m module library` with the sanitizers' runtime before Python."""
    runtime = subprocess.run(
        ["g++", f"-print-file-name=lib{sanitizers[0]}san.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    environment = {**os.environ, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}  # Python never frees all
    command = [sys.executable, "-m", module, str(library)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
