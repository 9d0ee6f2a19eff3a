import shutil

import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.exporting import export
from tests.elastic_models import routed_model
from tests.targets.tensorrt_bundle import tensorrt_bundle


@pytest.fixture(scope="session")
def shipped(tmp_path_factory):
    """An fp16 bundle that no test may change."""
    return tensorrt_bundle(tmp_path_factory.mktemp("tensorrt"))


@pytest.fixture
def fp16_bundle(shipped, tmp_path):
    """A copy that a test may change."""
    return Bundle.open(shutil.copytree(shipped.path, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def routed_bundle(tmp_path_factory):
    """An fp16 bundle of layout `routed` that no test may change: targets 1, 0.75 and 0.5."""
    directory = tmp_path_factory.mktemp("routed")
    source = routed_model(directory / "checkpoint")
    return export(source.path, directory / "bundle", layouts=("routed",), dtypes=("fp16",), verify=False)
