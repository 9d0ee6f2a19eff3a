import shutil

import pytest

from flextron_export.bundle.manifest import Bundle
from tests.random_bundle import random_bundle


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A bundle that no test may change."""
    return random_bundle(tmp_path_factory.mktemp("random"))


@pytest.fixture
def bundle(pristine, tmp_path):
    """A copy that a test may change, without what was measured meanwhile."""
    return Bundle.open(shutil.copytree(pristine, tmp_path / "bundle", ignore=shutil.ignore_patterns("latency")))
