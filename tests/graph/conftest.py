"""Every kind of tiny model, exported in every layout and precision."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.exporting import export
from tests.elastic_models import MODELS, elastic_model


class Exported(NamedTuple):
    checkpoint: ElasticCheckpoint
    bundle: Bundle


def exported(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    directory = tmp_path_factory.mktemp("exported")
    checkpoint = elastic_model(directory / "checkpoint", **MODELS[kind])
    return Exported(checkpoint, export(checkpoint.path, directory / "bundle", verify=False))


@pytest.fixture(scope="session", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(request.param, tmp_path_factory)


@pytest.fixture(scope="session")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("grouped", tmp_path_factory)
