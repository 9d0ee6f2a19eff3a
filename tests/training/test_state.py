"""States of unfinished runs: going on equals never having stopped."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.widths import Candidates
from flextron_export.errors import FlextronError, InputError
from flextron_export.training.elastic import TrainingSettings, train
from flextron_export.training.sampling import full_smallest_random
from flextron_export.training.state import States

TEXT = np.random.default_rng(0).integers(0, 260, (20, 50))
SETTINGS = TrainingSettings(tokens=640, batch=4, length=16, learning_rate=3e-3, loss="ce", optimizer="muon", threads=1)


class Stopped(Exception):
    """What ends a run in these tests, between two steps."""


@pytest.fixture(scope="module")
def architecture(tiny_model_dir: Path) -> Architecture:
    return Architecture.from_config(read_config(tiny_model_dir))


@pytest.fixture(scope="module")
def original(tiny_model_dir: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_model_dir)


def run(
    model: Any,
    architecture: Architecture,
    states: States | None,
    settings: TrainingSettings = SETTINGS,
    stop: int | None = None,
) -> list[float]:
    """Train; with `stop` only until that step is to begin."""
    sandwich, seen = full_smallest_random(architecture, Candidates.default(architecture)), 0

    def sampler(random: np.random.Generator) -> Any:
        nonlocal seen
        seen += 1
        if stop is not None and seen > stop:
            raise Stopped
        return sandwich(random)

    return train(model, architecture, TEXT, settings, sampler, states=states, progress=False)


def weights(model: Any) -> Any:
    import torch

    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stop", [4, 7])
def test_going_on_gives_the_weights_and_losses_of_an_uninterrupted_run(
    original: Any, architecture: Architecture, tmp_path: Path, optimizer: str, stop: int
) -> None:
    import torch

    settings = replace(SETTINGS, optimizer=optimizer)
    whole, stopped, resumed = (copy.deepcopy(original) for _ in range(3))
    expected = run(whole, architecture, None, settings)
    with pytest.raises(Stopped):
        run(stopped, architecture, States(tmp_path, every=3), settings, stop)
    states = States(tmp_path, every=3, resume=True)
    assert [path.name for path in states.all()] == [f"step-{(stop - 1) // 3 * 3:09d}"], "the newest, and only that"
    assert run(resumed, architecture, states, settings) == expected
    assert torch.equal(weights(resumed), weights(whole))


def test_going_on_without_a_state_begins(original: Any, architecture: Architecture, tmp_path: Path) -> None:
    losses = run(copy.deepcopy(original), architecture, States(tmp_path / "none", every=0, resume=True))
    assert len(losses) == SETTINGS.steps and not (tmp_path / "none").exists()


def test_a_state_of_another_run_is_refused_naming_every_difference(
    original: Any, architecture: Architecture, tmp_path: Path
) -> None:
    about = {"text": "a", "sampling": "sandwich"}
    with pytest.raises(Stopped):
        run(copy.deepcopy(original), architecture, States(tmp_path, every=2, about=about), stop=4)
    other = States(tmp_path, every=2, about={**about, "text": "b"}, resume=True)
    with pytest.raises(InputError, match=r"seed was 0 and is 5; text was 'a' and is 'b'"):
        other.check(replace(SETTINGS, seed=5))
    same = States(tmp_path, every=2, about=about, resume=True)
    assert same.check(replace(SETTINGS, learning_rate=1e-5, threads=2)) is not None, "these may change"


def test_a_state_is_kept_when_the_loss_is_no_number_any_more(
    original: Any, architecture: Architecture, tmp_path: Path
) -> None:
    import torch

    settings = replace(SETTINGS, clip=1e30, warmup=0)
    with pytest.raises(Stopped):
        run(copy.deepcopy(original), architecture, States(tmp_path, every=1), settings, stop=3)
    states = States(tmp_path, every=1, resume=True)
    with pytest.raises(
        FlextronError, match=r"diverged at step 4 of 10(.|\n)*--resume it goes on from .*step-000000002"
    ):
        run(copy.deepcopy(original), architecture, states, replace(settings, learning_rate=1e30))
    resumed = copy.deepcopy(original)
    assert np.isfinite(run(resumed, architecture, states, settings)).all()
    assert torch.isfinite(weights(resumed)).all()


def test_a_damaged_record_is_named(original: Any, architecture: Architecture, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(copy.deepcopy(original), architecture, States(tmp_path, every=2), stop=3)
    states = States(tmp_path, every=2, resume=True)
    (states.all()[-1] / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"state\.json is damaged"):
        states.check(SETTINGS)


@pytest.mark.parametrize("damage", ["weights cut short", "weights missing", "record without a step"])
def test_a_damaged_state_is_named(original: Any, architecture: Architecture, tmp_path: Path, damage: str) -> None:
    with pytest.raises(Stopped):
        run(copy.deepcopy(original), architecture, States(tmp_path, every=2), stop=3)
    states = States(tmp_path, every=2, resume=True)
    (state,) = states.all()
    if damage == "record without a step":
        record = json.loads((state / "state.json").read_text())
        del record["step"]
        (state / "state.json").write_text(json.dumps(record))
    else:
        for weights in state.glob("*.distcp"):
            if damage == "weights missing":
                weights.unlink()
            else:
                os.truncate(weights, 100)
    with pytest.raises(InputError, match=rf"{state} is damaged(.|\n)*remove {state}"):
        run(copy.deepcopy(original), architecture, states)


def test_a_negative_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every -1 steps"):
        States(tmp_path, every=-1)


def test_a_full_disk_is_an_error_and_the_state_before_survives(
    original: Any, architecture: Architecture, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(1400)
    states = States(disk / "work", every=2)
    with pytest.raises(InputError, match=r"step-000000004 was not written(.|\n)*the disk is full: 0\.\d MB"):
        run(copy.deepcopy(original), architecture, states)
    assert [path.name for path in (disk / "work").iterdir()] == ["step-000000002"]
    assert json.loads((states.all()[-1] / "state.json").read_text())["step"] == 2
    whole = copy.deepcopy(original)
    expected = run(whole, architecture, None)
    (disk / "work").rename(disk / "moved")
    resumed = States(disk / "moved", every=0, resume=True)
    assert run(copy.deepcopy(original), architecture, resumed) == expected
