"""All kernels under sanitizers and nvcc, and the CMake build."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .running import ROOT, build, run_under_sanitizers

OPERATORS = ("elastic_linear", "head_subset_attention")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_the_kernels_are_clean_under_sanitizers(tmp_path: Path, sanitizers: str) -> None:
    """Threads are CUDA threads: a missing barrier is a data race, an index beyond shared memory an overflow."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    library = build(tmp_path, "-O0", "-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all")
    for operator in OPERATORS:
        done = run_under_sanitizers(library, f"tests.plugins.{operator}_run", sanitizers)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_nvcc_compiles_the_kernels_without_spills(tmp_path: Path, operator: str) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed: the CUDA kernels are not compiled here")
    source = ROOT / f"plugins/{operator}/{operator}.cu"
    nvcc = ["nvcc", "-std=c++17", "-O3", "-arch=sm_87", "-Xptxas=-v", "-c", str(source), "-o", str(tmp_path / "out.o")]
    check = [sys.executable, str(ROOT / "tools/check_ptxas.py"), "--", *nvcc]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 spill" in done.stdout and "warning" not in done.stdout


@pytest.mark.slow
def test_cmake_builds_and_tests_without_cuda_and_says_so(tmp_path: Path) -> None:
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("cmake and ninja are not installed")
    configure = ["cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", "-DFLEXTRON_CUDA=OFF"]
    done = subprocess.run(
        [*configure, f"-DPython3_EXECUTABLE={sys.executable}"], check=True, capture_output=True, text=True
    )
    assert "### CUDA kernels are NOT built" in done.stdout
    subprocess.run(["cmake", "--build", tmp_path], check=True)
    subprocess.run(["ctest", "--test-dir", tmp_path, "--output-on-failure"], check=True)
