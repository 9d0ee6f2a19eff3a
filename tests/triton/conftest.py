import pytest

from tests.random_bundle import random_bundle


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A bundle that no test may change."""
    directory = tmp_path_factory.mktemp("triton")
    return random_bundle(directory, layouts=("panels",))
