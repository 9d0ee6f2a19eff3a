"""The C++ runtime, built once; without a compiler or headers the tests are skipped and say so."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.random_bundle import random_bundle

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
"""Kept between runs, so that only what changed is compiled again."""


@pytest.fixture(scope="session")
def native_headers():
    """Headers from the distribution's packages, fetched if they are not there."""
    for tool in ("cmake", "ninja", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"the C++ runtime needs {tool}")
    with _locked("native"):
        fetched = subprocess.run([ROOT / "tools" / "fetch_native.sh"], capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"no headers for the C++ runtime: {fetched.stderr.strip()}")


@pytest.fixture(scope="session")
def engines_build(native_headers):
    """Directory with flextron-run and the C++ tests; plain code compiles fastest, and compiling takes all the time."""
    return build("engines-tests", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-g1")


@pytest.fixture(scope="session")
def sanitized_build(native_headers):
    """The same under AddressSanitizer and UBSan."""
    return build("engines-sanitized", "-DCMAKE_BUILD_TYPE=Debug", "-DFLEXTRON_SANITIZE=address,undefined")


@pytest.fixture(scope="session")
def thread_sanitized_build(native_headers):
    """The program with runners in several threads, under ThreadSanitizer."""
    options = ("-DCMAKE_BUILD_TYPE=Debug", "-DFLEXTRON_SANITIZE=thread")
    return build("engines-thread", *options, target="flextron_threads")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A bundle that no test may change."""
    return random_bundle(tmp_path_factory.mktemp("engines"))


def build(name, *options, target="all"):
    directory = BUILD / name
    with _locked(name):
        configured = _run(
            "cmake", "-S", ROOT / "engines", "-B", directory, "-G", "Ninja", "-DFLEXTRON_WERROR=ON", *options
        )
        if "SKIPPED" in configured:
            pytest.skip(next(line for line in configured.splitlines() if "SKIPPED" in line))
        _run("ninja", "-C", directory, "-j", "2", target)
    return directory


def _run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


class _locked:
    """Test workers wait for one another instead of building the same directory at once."""

    def __init__(self, name):
        self.path = BUILD / f".{name}.lock"

    def __enter__(self):
        self.path.parent.mkdir(exist_ok=True)
        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *error):
        self.file.close()
