"""The GPU at hand, and the kernel library compiled for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from flextron_export.errors import InputError, MissingDependencyError

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = ("elastic_linear", "head_subset_attention")
_FIX = "run this on a machine with an NVIDIA GPU, its driver and a CUDA build of PyTorch; the tests cover the rest"


def require_gpu() -> dict[str, Any]:
    """What the GPU is; MissingDependencyError says what is missing, InputError that the GPU is too old."""
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("The GPU check needs PyTorch, which is not installed.", fix=_FIX) from error
    if not torch.cuda.is_available():
        cause = (
            "no NVIDIA driver or GPU" if torch.version.cuda else f"PyTorch {torch.__version__} is built without CUDA"
        )
        raise MissingDependencyError("The GPU check needs a CUDA GPU, and PyTorch sees none.", cause=cause, fix=_FIX)
    found = torch.cuda.get_device_properties(0)
    if found.major < 8:
        what = f"The kernels need compute capability 8.0 or newer; {found.name} has {found.major}.{found.minor}."
        raise InputError(what, fix="run this on an Ampere, Orin or newer GPU")
    return {
        "gpu": found.name,
        "compute_capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_gib": round(found.total_memory / 2**30, 1),
        "driver": _driver(),
        "torch": torch.__version__,
    }


def build_kernels(directory: Path, capability: str) -> Path:
    """The kernel library for this compute capability ("8.7"), compiled by nvcc; fails on a register spill."""
    nvcc = shutil.which("nvcc") or _beside_toolkit("nvcc")
    if nvcc is None:
        raise MissingDependencyError(
            "The GPU check compiles the kernels, and there is no nvcc.", fix="install the CUDA toolkit"
        )
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / "libflextron_plugins.so"
    options = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{capability.replace('.', '')}", "-Xptxas=-v", "-Xcompiler=-fPIC"]
    running = []
    for name in OPERATORS:
        command = [*options, "-c", str(ROOT / f"plugins/{name}/{name}.cu"), "-o", str(directory / f"{name}.o")]
        running.append(subprocess.Popen([sys.executable, str(ROOT / "tools/check_ptxas.py"), "--", *command]))
    exits = [process.wait() for process in running]
    if any(exits):
        raise MissingDependencyError("The kernels do not compile for this GPU; nvcc's report is above.")
    objects = [str(directory / f"{name}.o") for name in OPERATORS]
    subprocess.run([nvcc, "-shared", *objects, "-o", str(library)], check=True)
    return library


def compute_sanitizer() -> str | None:
    """The path of compute-sanitizer, or None."""
    return shutil.which("compute-sanitizer") or _beside_toolkit("compute-sanitizer")


def _beside_toolkit(name: str) -> str | None:
    path = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / name
    return str(path) if path.is_file() else None


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None
