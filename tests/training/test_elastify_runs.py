"""Whole runs of `elastify` in processes of their own: killed ones, several at once, a full disk."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.files import sha256

ROOT = Path(__file__).parents[2]
STEPS = 24


def command(model: Path, text: Path, out: Path, *options: object) -> list[str]:
    training = f"--tokens {STEPS * 128} --length 32 --batch 4 --precision fp32 --threads 1".split()
    return ["-m", "flextron_export", "elastify", str(model), "--text", str(text), "--out", str(out), *training] + [
        str(option) for option in options
    ]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], env=environment(), capture_output=True, text=True, timeout=600)


def launch(arguments: list[str], processes: int = 2) -> subprocess.CompletedProcess[str]:
    return run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments)


def losses(checkpoint: Path) -> list[float]:
    return [b.validation_loss or 0.0 for b in ElasticCheckpoint.open(checkpoint).budgets]


def weights(checkpoint: Path) -> Any:
    import torch
    from safetensors.torch import load_file

    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(checkpoint / "model.safetensors").items())])


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_dir: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    done = run(*command(tiny_model_dir, tiny_text, out, "--save-every", 2))
    assert done.returncode == 0, done.stderr
    assert list(out.parent.iterdir()) == [out], "the work directory is removed"
    return out


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_checkpoint(
    uninterrupted: Path, tiny_model_dir: Path, tiny_text: Path, tmp_path: Path
) -> None:
    out, work = tmp_path / "out", tmp_path / "out.work"
    arguments = [sys.executable, *command(tiny_model_dir, tiny_text, out, "--save-every", 2, "--resume")]
    draw, kills, seen = random.Random(7), 0, set()
    while kills < 6:
        before = sorted(work.glob("step-*/state.json"))
        process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        if draw.random() < 0.7:  # at any moment of training, a save included
            for line in process.stderr:
                if b"elastic training: step" in line:
                    break
            time.sleep(draw.uniform(0, 0.6))
        else:  # or of what comes before
            time.sleep(draw.uniform(1, 6))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        states = sorted(work.glob("step-*/state.json"))
        seen.update(states)
        assert not out.exists()
        assert len(states) >= bool(before), "there is always a state to go on from"
        assert not before or states[-1] >= before[-1], "nothing that was reached is lost"
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert kills >= 3 and seen, "it was killed before and after states"
    assert sha256(out / "model.safetensors") == sha256(uninterrupted / "model.safetensors")
    assert losses(out) == losses(uninterrupted)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["out"]


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_batch(
    tiny_model_dir: Path, tiny_text: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import torch

    options = ("--optimizer", "adamw", "--learning-rate", "1e-3")
    one, two, halves = (tmp_path / name for name in ("one", "two", "halves"))
    done = run(*command(tiny_model_dir, tiny_text, one, *options))
    assert done.returncode == 0, done.stderr
    done = launch(command(tiny_model_dir, tiny_text, two, *options, "--tensorboard", tmp_path / "events"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nats per token") == 1 and done.stderr.count(f"step {STEPS}/{STEPS}") == 1
    done = launch(command(tiny_model_dir, tiny_text, halves, *options, "--accumulate", 2))
    assert done.returncode == 0, done.stderr
    for other in (two, halves):
        # Sums in another order differ in the last bit, which AdamW's first steps turn into a part of the step.
        torch.testing.assert_close(weights(other), weights(one), rtol=0, atol=2e-4)
        assert losses(other) == pytest.approx(losses(one), abs=1e-3)
    assert (weights(one) - weights(two)).abs().max() < 0.02 * (weights(one) - weights(tiny_checkpoint)).abs().max()
    assert len(list((tmp_path / "events").iterdir())) == 1, "only the main process writes"


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_killed(
    uninterrupted: Path, tiny_model_dir: Path, tiny_text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = command(tiny_model_dir, tiny_text, out, "--save-every", 2, "--resume")
    process = subprocess.Popen([sys.executable, *arguments], env=environment(), stderr=subprocess.PIPE)
    while not list(tmp_path.glob("out.work/step-*/state.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    done = launch(arguments)
    assert done.returncode == 0, done.stderr
    assert losses(out) == pytest.approx(losses(uninterrupted), abs=0.02)


@pytest.mark.slow
def test_settings_that_processes_cannot_share_are_refused_by_each(
    tiny_model_dir: Path, tiny_text: Path, tmp_path: Path
) -> None:
    done = launch(command(tiny_model_dir, tiny_text, tmp_path / "out", "--accumulate", 3))
    assert done.returncode != 0 and not (tmp_path / "out").exists()
    assert "a batch of 4 cannot be shared by 2 processes in 3 parts each" in done.stderr


@pytest.mark.slow
def test_a_full_disk_while_training_keeps_the_state_to_go_on_from(
    uninterrupted: Path,
    tiny_model_dir: Path,
    tiny_text: Path,
    tmp_path: Path,
    small_disk: Callable[[int], Path],
) -> None:
    place = small_disk(1500)
    arguments = command(
        tiny_model_dir, tiny_text, tmp_path / "out", "--save-every", 2, "--resume", "--work", place / "work"
    )
    done = run(*arguments)
    assert done.returncode == 3, done.stderr
    assert "was not written" in done.stderr and "the disk is full" in done.stderr
    (state,) = place.glob("work/step-*/state.json")
    assert json.loads(state.read_text())["step"] == 2
    small_disk(10_000)
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert sha256(tmp_path / "out" / "model.safetensors") == sha256(uninterrupted / "model.safetensors")
