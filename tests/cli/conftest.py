import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flextron_export.cli import main
from tests.random_bundle import random_bundle


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A bundle that no test may change; its checkpoint lies beside it."""
    return random_bundle(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def bundle(pristine, tmp_path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(pristine, tmp_path / "bundle")


@pytest.fixture
def call():
    """Run `flextron-export` with the given arguments."""

    def run(*arguments: object, **options: object) -> Result:
        return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False, **options)

    return run
