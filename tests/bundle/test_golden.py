"""Golden outputs, with which any device can check a bundle, and golden tokens of a tiny model checked in here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.bundle.golden import SAMPLED, golden_file, read_golden
from flextron_export.bundle.manifest import Bundle, FileRecord
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.model import load_model
from flextron_export.errors import BundleError
from flextron_export.exporting import export
from flextron_export.graph.contract import LAYOUTS
from flextron_export.targets.onnxruntime_cpu import open_session
from flextron_export.targets.references import budget_references
from flextron_export.targets.verify import BATCH, LENGTH, PROMPT, verify
from tests.elastic_models import elastic_model
from tests.random_bundle import write_manifest

GOLDEN = json.loads((Path(__file__).parent / "golden_tokens.json").read_text())


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("untied")
    return export(elastic_model(directory / "checkpoint", tied=False).path, directory / "bundle", verify=False)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_graph_continues_the_prompt_with_the_tokens_checked_in(untied: Bundle, layout: str, dtype: str) -> None:
    session = open_session(untied, layout=layout, dtype=dtype, threads=1)
    assert set(GOLDEN["tokens"]) == {b.name for b in untied.budgets}
    for name, tokens in GOLDEN["tokens"].items():
        cache = session.new_cache(untied.budget(name), 1, 32)
        ids, done = np.array([GOLDEN["prompt"]]), 0
        found: list[int] = []
        while len(found) < len(tokens):
            positions = done + np.arange(ids.shape[1])[None]
            done += ids.shape[1]
            logits = session.step(cache, ids, positions, positions[:, 0], np.array([ids.shape[1] - 1]))
            found.append(int(logits.argmax()))
            ids = np.array([found[-1:]])
        assert found == tokens, name


def test_stored_references_are_those_of_the_torch_model(whole: Bundle, checkpoint: ElasticCheckpoint) -> None:
    expected = budget_references(load_model(checkpoint.path), checkpoint, whole.budgets)
    for dtype in whole.dtypes:
        for name, stored in read_golden(whole, dtype).items():
            wanted = expected[name]
            np.testing.assert_array_equal(stored.ids, wanted.ids)
            assert (stored.prompt, stored.ids.shape) == (PROMPT, (BATCH, LENGTH))
            assert len(stored.vocabulary) == len(set(stored.vocabulary.tolist())) == SAMPLED
            np.testing.assert_allclose(stored.logits, wanted.logits[..., stored.vocabulary], atol=1e-5)
            np.testing.assert_allclose(stored.margin, wanted.margin, atol=1e-5)
            best = wanted.logits[:, PROMPT - 1 : -1].argmax(-1)
            np.testing.assert_array_equal(stored.ids[:, PROMPT:], best)


def test_a_bundle_exported_without_verification_has_none(checkpoint: ElasticCheckpoint, tmp_path: Path) -> None:
    export(checkpoint.path, tmp_path / "out", layouts=["panels"], dtypes=["fp32"], verify=False)
    with pytest.raises(BundleError, match=r"no golden outputs for fp32(.|\n)*--no-verify(.|\n)*--checkpoint"):
        verify(tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"ids": [[1, 2], [3]]},
        {"ids": [[1, 2, 3]]},
        {"ids": [[-1] * LENGTH] * BATCH},
        {"ids": [[260] * LENGTH] * BATCH},
        {"ids": "tokens"},
        {"vocabulary": [0]},
        {"vocabulary": [999] * SAMPLED},
        {"prompt": 0},
        {"prompt": LENGTH},
        {"prompt": None},
        {"margin": []},
        {"logits": [[[1.0]]]},
        {"scale": 0},
        {"scale": float("nan")},
    ],
    ids=lambda change: str(change)[:30],
)
def test_references_that_make_no_sense_are_refused(bundle: Path, change: dict[str, Any]) -> None:
    value = json.loads((bundle / golden_file("fp32")).read_text())
    value["budgets"]["tapered"].update(change)
    with pytest.raises(BundleError, match=r"golden\.fp32\.json is damaged"):
        read_golden(rewritten(bundle, value), "fp32")


@pytest.mark.parametrize(
    "change",
    [{"budgets": {}}, {"budgets": {"full": {}}}, {"budgets": 7}, {"version": 2}, {"format": "flextron-bundle"}],
    ids=str,
)
def test_other_files_and_missing_budgets_are_refused(bundle: Path, change: dict[str, Any]) -> None:
    value = json.loads((bundle / golden_file("fp32")).read_text())
    with pytest.raises(BundleError, match=r"golden\.fp32\.json is damaged"):
        read_golden(rewritten(bundle, {**value, **change}), "fp32")


def rewritten(bundle: Path, value: Any) -> Bundle:
    """The bundle with another golden file, hashed as it should be."""
    path = bundle / golden_file("fp32")
    path.write_text(json.dumps(value))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][path.name] = dataclasses.asdict(FileRecord.of(path))
    write_manifest(bundle, manifest)
    return Bundle.open(bundle)
