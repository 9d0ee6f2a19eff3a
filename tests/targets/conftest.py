import shutil

import pytest

from flextron_export.bundle.manifest import Bundle
from tests.targets.tensorrt_bundle import tensorrt_bundle


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """An fp16 bundle that no test may change."""
    return tensorrt_bundle(tmp_path_factory.mktemp("tensorrt"))


@pytest.fixture
def fp16_bundle(shipped, tmp_path):
    """A copy that a test may change."""
    return Bundle.open(shutil.copytree(shipped.path, tmp_path / "bundle"))
