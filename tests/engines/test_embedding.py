"""An installed runtime is found by CMake and pkg-config, and the C example generates what the Python runner does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from flextron_export import Runner

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "engines" / "example"
LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
PROMPT = [1, 2, 3, 200, 7]

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this onnxruntime has no shared library to load")


@pytest.fixture(scope="module")
def prefix(engines_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `cmake --install` leaves, moved elsewhere afterwards: nothing in it may name the place it was made for."""
    made = tmp_path_factory.mktemp("install") / "first"
    subprocess.run(["cmake", "--install", engines_build, "--prefix", made], check=True, capture_output=True)
    return Path(shutil.move(made, made.with_name("moved")))


def with_cmake(prefix: Path, directory: Path) -> Path:
    configure = ["cmake", "-S", EXAMPLE, "-B", directory, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}"]
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(["cmake", "--build", directory], check=True, capture_output=True)
    return directory / "generate"


def with_pkg_config(prefix: Path, directory: Path) -> Path:
    if shutil.which("pkg-config") is None:
        pytest.skip("there is no pkg-config")
    (described,) = prefix.rglob("flextron.pc")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(described.parent)}
    asked = ["pkg-config", "--cflags", "--libs", "flextron"]
    flags = subprocess.run(asked, check=True, capture_output=True, text=True, env=environment).stdout.split()
    program, libraries = directory / "generate", described.parents[1]
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = ["cc", *strict, EXAMPLE / "generate.c", "-o", program, *flags, f"-Wl,-rpath,{libraries}"]
    subprocess.run(command, check=True)
    return program


@pytest.mark.parametrize("build", [with_cmake, with_pkg_config])
def test_the_example_generates_what_the_python_runner_does(build, prefix: Path, pristine: Path, tmp_path: Path) -> None:
    program = build(prefix, tmp_path)
    words = [program, pristine, "-", *map(str, PROMPT)]
    environment = {**os.environ, "FLEXTRON_ONNXRUNTIME": str(LIBRARY)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    with Runner(pristine, threads=1) as runner:
        expected = list(runner.generate_ids(PROMPT, max_new_tokens=8))
    assert [int(line) for line in done.stdout.split()] == expected


def test_the_example_says_what_is_wrong(prefix: Path, tmp_path: Path) -> None:
    done = subprocess.run([with_cmake(prefix, tmp_path), tmp_path / "none", "-", "1"], capture_output=True, text=True)
    assert done.returncode == 6
    assert "error: " in done.stderr and "next: " in done.stderr


def test_the_installed_command_runs_where_it_was_moved(prefix: Path) -> None:
    done = subprocess.run([prefix / "bin" / "flextron-run", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
