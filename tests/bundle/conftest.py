"""A tiny checkpoint, and a bundle of it in every layout and precision, verified, with golden outputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.exporting import export
from tests.elastic_models import elastic_model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> ElasticCheckpoint:
    return elastic_model(tmp_path_factory.mktemp("source") / "checkpoint")


@pytest.fixture(scope="session")
def whole(checkpoint: ElasticCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(checkpoint.path, tmp_path_factory.mktemp("whole") / "bundle")


@pytest.fixture
def bundle(whole: Bundle, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole.path, tmp_path / "bundle"))
