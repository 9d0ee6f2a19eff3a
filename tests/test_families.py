"""Every family through the whole tool: trained, exported and verified, run, and equal to torch at every budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export import Runner, calibrate
from flextron_export.elastic.architecture import Architecture
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.model import load_model, narrowed
from flextron_export.elastic.modules import layers
from flextron_export.elastic.widths import Budget
from flextron_export.exporting import export
from flextron_export.graph.contract import LAYOUTS
from flextron_export.runtime.sequence import LiveSequence
from flextron_export.training.elastify import elastify
from flextron_export.training.tiny import tiny_model
from tests.elastic_models import FAMILIES, MODELS

PROMPT = [int(i) for i in np.random.default_rng(3).integers(1, 260, 20)]
"""Longer than every sliding window of the models."""


@pytest.fixture(
    scope="module", params=[kind if kind == "gpt2" else pytest.param(kind, marks=pytest.mark.slow) for kind in FAMILIES]
)
def trained(request: pytest.FixtureRequest, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    tiny_model(directory / "model", **MODELS[request.param])
    checkpoint = elastify(
        directory / "model", [tiny_text], directory / "checkpoint", tokens=512, batch=4, length=32, progress=False
    )
    assert checkpoint.training["tokens"] == 512
    assert all(b.validation_loss for b in checkpoint.budgets)
    export(checkpoint.path, directory / "bundle", dtypes=("fp32",))  # compares every graph with torch
    return directory


def torch_logits(model: Any, architecture: Architecture, budget: Budget, ids: list[int]) -> np.ndarray:
    import torch

    with torch.inference_mode(), narrowed(model, architecture, budget):
        return model(torch.tensor([ids])).logits[0].numpy()


def test_training_moved_every_layer(trained: Path) -> None:
    """Elastic training reaches the weights inside the layers, whichever way a family stores them."""
    import torch

    before, after = load_model(trained / "model"), load_model(trained / "checkpoint")
    for old, new in zip(layers(before), layers(after), strict=True):
        for name, parameter in old.named_parameters():
            # Sorting permutes, which changes no sum of squares; training does.
            assert not torch.isclose(
                parameter.square().sum(), dict(new.named_parameters())[name].square().sum(), rtol=1e-7
            ), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_runner_decodes_what_torch_computes(trained: Path, layout: str) -> None:
    """In chunks shorter and prompts longer than the windows, and on past them, at the full and the smallest budget."""
    checkpoint = ElasticCheckpoint.open(trained / "checkpoint")
    model = load_model(checkpoint.path)
    with Runner(trained / "bundle", layout=layout, threads=1) as runner:
        for budget in (checkpoint.budgets[0], checkpoint.budgets[-1]):
            sequence = LiveSequence(runner._session.get(), budget, 256, chunk=6)
            found, ids = [sequence.prefill(PROMPT).copy()], list(PROMPT)
            for _ in range(50):  # the cache grows on the way
                ids.append(int(found[-1].argmax()))
                found.append(sequence.decode(ids[-1]).copy())
            expected = torch_logits(model, checkpoint.architecture, budget, ids)[len(PROMPT) - 1 :]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_it_runs_at_a_latency_target(trained: Path) -> None:
    table = calibrate(trained / "bundle", threads=1, contexts=[16], prompt_lengths=[8], repeats=6)
    assert set(table.budgets) == {b.name for b in ElasticCheckpoint.open(trained / "checkpoint").budgets}
    with Runner(trained / "bundle", "10s", threads=1, calibration="never") as runner:
        assert len(list(runner.generate_ids(PROMPT, 5, stop_on_eos=False))) == 5
