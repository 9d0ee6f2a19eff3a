"""The kernels, compiled once for the CPU: emulated, and as custom ops for ONNX Runtime."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flextron_export.plugins import Plugins

from .running import ROOT, build


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    return Plugins(build(tmp_path_factory.mktemp("emulated"), "-O0"))


@pytest.fixture(scope="session")
def onnxruntime_ops() -> Path:
    """The library of custom ops without CUDA; its build is kept, so that only what changed is compiled again."""
    return build_onnxruntime_ops("plugins-tests")


def build_onnxruntime_ops(name: str, *options: str) -> Path:
    for tool in ("cmake", "ninja", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"the custom ops for ONNX Runtime need {tool}")
    directory, target = ROOT / "build" / name, "flextron_onnxruntime_ops"
    directory.mkdir(parents=True, exist_ok=True)
    with (ROOT / "build" / "native.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fetched = subprocess.run([ROOT / "tools" / "fetch_native.sh"], capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"no headers of ONNX Runtime: {fetched.stderr.strip()}")
    with (ROOT / "build" / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configure = ["cmake", "-S", ROOT, "-B", directory, "-G", "Ninja", "-DFLEXTRON_CUDA=OFF", *options]
        for command in ([*configure, f"-DPython3_EXECUTABLE={sys.executable}"], ["ninja", "-C", directory, target]):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert done.returncode == 0, done.stdout
    return directory / "plugins" / f"lib{target}.so"
