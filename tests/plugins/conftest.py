"""The kernels, compiled once for the CPU."""

from __future__ import annotations

import shutil

import pytest

from flextron_export.plugins import Plugins

from .running import build


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    return Plugins(build(tmp_path_factory.mktemp("emulated"), "-O0"))
