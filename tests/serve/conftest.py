"""Servers over a small random bundle."""

import pytest

from flextron_export import Runner, calibrate
from flextron_export.exporting import export
from flextron_export.training.data import save_tokenizer
from flextron_export.training.tiny import byte_tokenizer
from tests.random_bundle import SHAPE
from tests.serve.server_process import MAX_POSITIONS, TEMPLATE, running
from tools.random_checkpoint import write_random_checkpoint


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """A bundle with a chat template and measurements, whose answers can be long; no test may change it."""
    directory = tmp_path_factory.mktemp("serve")
    write_random_checkpoint(directory / "checkpoint", **SHAPE, max_positions=MAX_POSITIONS)
    save_tokenizer(byte_tokenizer(), directory / "checkpoint")
    (directory / "checkpoint" / "chat_template.jinja").write_text(TEMPLATE)
    options = {"layouts": ("panels",), "dtypes": ("fp32",), "verify": False}
    export(directory / "checkpoint", directory / "bundle", **options)
    calibrate(directory / "bundle", threads=1, contexts=(16, 64), prompt_lengths=(8,), repeats=6)
    return directory / "bundle"


@pytest.fixture(scope="session")
def server(served):
    with running(served, "--parallel", 2, "--waiting", 32, "--body-timeout", 2) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def runner(served):
    """What the server's answers are compared with."""
    with Runner(served, threads=1) as runner:
        yield runner
