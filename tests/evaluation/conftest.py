"""A tiny elastic checkpoint and its bundle, opened to be scored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flextron_export.evaluation.subject import Subject, open_subject
from flextron_export.exporting import export
from tests.elastic_models import elastic_model


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `checkpoint` and `bundle`; the model holds 256 tokens."""
    directory = tmp_path_factory.mktemp("evaluated")
    checkpoint = elastic_model(directory / "checkpoint")
    export(checkpoint.path, directory / "bundle", dtypes=("fp32",), verify=False)
    return directory


@pytest.fixture(scope="session")
def torch_subject(evaluated: Path) -> Iterator[Subject]:
    subject = open_subject(evaluated / "checkpoint", threads=1, device="cpu")
    yield subject
    subject.close()


@pytest.fixture(scope="session", params=["panels", "shared", "per-budget"])
def bundle_subject(request: pytest.FixtureRequest, evaluated: Path) -> Iterator[Subject]:
    subject = open_subject(evaluated / "bundle", threads=1, layout=request.param)
    yield subject
    subject.close()
