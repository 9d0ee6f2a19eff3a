"""Importance and scores of every family: the checkpoint in torch and its bundle agree."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from flextron_export.elastic.model import load_model
from flextron_export.evaluation.scoring import Request, score
from flextron_export.evaluation.subject import open_subject
from flextron_export.exporting import export
from flextron_export.training.importance import MEASURES, measure_importance
from tests.elastic_models import FAMILIES, MODELS, elastic_model

TOKENS = np.random.default_rng(0).integers(0, 250, (3, 24))


@pytest.mark.parametrize("kind", FAMILIES)
def test_checkpoint_and_bundle_agree(kind: str, tmp_path: Path) -> None:
    checkpoint = elastic_model(tmp_path / "checkpoint", **MODELS[kind])
    export(checkpoint.path, tmp_path / "bundle", dtypes=("fp32",), layouts=("panels",), verify=False)
    requests = [Request(tuple(map(int, TOKENS[i, :n])), tuple(map(int, TOKENS[2, :3]))) for i, n in ((0, 20), (1, 9))]
    with (
        closing(open_subject(checkpoint.path, threads=1, device="cpu")) as torch,
        closing(open_subject(tmp_path / "bundle", threads=1)) as bundle,
    ):
        for budget in torch.budgets:
            one, other = (dict(score(subject, budget, requests)) for subject in (torch, bundle))
            for i in range(2):
                np.testing.assert_allclose(one[i].log_likelihoods, other[i].log_likelihoods, atol=2e-4)
            running = [subject.continuation(budget, [[1, 2, 3], [4]], 5) for subject in (torch, bundle)]
            for _ in range(2):
                np.testing.assert_allclose(running[0].logits, running[1].logits, atol=3e-4)
                for continuation in running:
                    continuation.push(np.array([5, 6]))


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_measure_tells_units_apart(kind: str, tmp_path: Path) -> None:
    checkpoint = elastic_model(tmp_path / "checkpoint", **MODELS[kind])
    model = load_model(checkpoint.path)
    for measure in MEASURES:
        importance = measure_importance(model, checkpoint.architecture, TOKENS, measure=measure)
        for values in (importance.groups, importance.neurons):
            assert np.isfinite(values).all() and (values > 0).all()
            assert all(len(set(layer)) == len(layer) for layer in values)
