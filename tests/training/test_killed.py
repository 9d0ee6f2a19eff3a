"""Routers and searches that are killed at any moment and go on to the same checkpoint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flextron_export.files import sha256
from flextron_export.training.latency_model import LatencyModel

ROOT = Path(__file__).parents[2]
KILLS = 3
KINDS = {
    "joint": "route --targets 0.8,0.7 --tokens 2048 --joint-tokens 2048 --batch 4 --length 32 --save-every 1",
    "surrogate": "route --targets 0.8,0.7 --tokens 3072 --batch 4 --length 32 --save-every 1"
    " --method surrogate --kind dynamic --threshold 9",
    "search": "search --targets 0.9,0.8,0.7 --sequences 100 --length 128",
}


def content(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): sha256(p) for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_killed_run_goes_on_to_the_checkpoint_of_an_uninterrupted_one(
    options: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    LatencyModel("decode", 8, 0.1, (0.1, 0.15, 0.2), (0.1, 0.15, 0.2, 0.25)).save(tmp_path / "latency.json")
    verb, *rest = options.split()
    arguments = [sys.executable, "-m", "flextron_export", verb, str(tiny_checkpoint), "--text", str(tiny_text)]
    arguments += ["--latency-model", str(tmp_path / "latency.json"), "--threads", "1", *rest, "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    expected, out, work = tmp_path / "expected", tmp_path / "out", tmp_path / "out.work"
    done = subprocess.run([*arguments, str(expected)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    draw, reached = random.Random(5), []
    for _ in range(KILLS):
        process = subprocess.Popen([*arguments, str(out), "--resume"], env=environment, stderr=subprocess.DEVNULL)
        before = progress(work)
        while progress(work) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not out.exists()
        reached.append(progress(work))
    assert reached == sorted(reached) and len(set(reached)) == KILLS, "each went further than the one before"
    done = subprocess.run(
        [*arguments, str(out), "--resume"], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert content(out) == content(expected)
    assert not work.exists()


def progress(work: Path) -> int:
    """Steps of the newest state, or bytes of computed losses."""
    states = [int(path.parent.name.split("-")[1]) for path in work.glob("step-*/state.json")]
    journal = work / "losses.jsonl"
    return max(states, default=0) or (journal.stat().st_size if journal.exists() else 0)
