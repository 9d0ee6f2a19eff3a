"""A result that cannot be written loses nothing: the run is kept, and the same command with --resume writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flextron_export.errors import InputError
from flextron_export.files import sha256
from flextron_export.training.elastify import elastify
from flextron_export.training.latency_model import LatencyModel
from flextron_export.training.pretrain import pretrain
from flextron_export.training.route import route
from flextron_export.training.search_checkpoint import search_checkpoint

ROOT = Path(__file__).parents[2]
TABLE = LatencyModel("decode", 8, 0.1, (0.1, 0.15, 0.2), (0.1, 0.15, 0.2, 0.25))
STEPS: dict[str, Any] = {"batch": 4, "length": 32, "threads": 1, "progress": False}


@dataclass(frozen=True)
class Verb:
    """One command, and the function that is the last to compute before the result is written."""

    run: Callable[..., Any]
    last: str


VERBS = {
    "pretrain": Verb(
        lambda model, checkpoint, text, out, **o: pretrain([text], out, **{**STEPS, "tokens": 256, **o}),
        "pretrain.validation_loss",
    ),
    "elastify": Verb(
        lambda model, checkpoint, text, out, **o: elastify(model, [text], out, **{**STEPS, "tokens": 384, **o}),
        "elastify.train",
    ),
    "route": Verb(
        lambda model, checkpoint, text, out, **o: route(
            checkpoint,
            [text],
            out,
            latency_model=TABLE,
            targets=(0.8,),
            **{**STEPS, "tokens": 384, "joint_tokens": 256, **o},
        ),
        "router_report.report",
    ),
    "search": Verb(
        lambda model, checkpoint, text, out, **o: search_checkpoint(
            checkpoint, [text], TABLE, ["0.8"], out, length=32, sequences=4, threads=1, **o
        ),
        "search_checkpoint.search",
    ),
}


def content(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): sha256(p) for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "pretrain" else []) for name in VERBS]
)
def test_a_destination_that_appeared_meanwhile_is_not_touched_and_the_run_is_kept(
    name: str,
    tiny_model_dir: Path,
    tiny_checkpoint: Path,
    tiny_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verb, out, expected = VERBS[name], tmp_path / "out", tmp_path / "expected"
    arguments = (tiny_model_dir, tiny_checkpoint, tiny_text)
    verb.run(*arguments, expected)
    module, function = f"flextron_export.training.{verb.last}".rsplit(".", 1)
    compute = getattr(sys.modules[module], function)

    def appear(*given: Any, **options: Any) -> Any:
        value = compute(*given, **options)
        out.mkdir(exist_ok=True)
        (out / "theirs.txt").write_text("theirs")
        return value

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{function}", appear)
        with pytest.raises(InputError, match=r"exists(.|\n)*the run is kept: .*--resume --work .*out\.work"):
            verb.run(*arguments, out)
    assert [p.name for p in out.iterdir()] == ["theirs.txt"]
    with pytest.raises(InputError, match=r"holds an unfinished run(.|\n)*--resume"):
        verb.run(*arguments, _emptied(out))

    def trains(*_: Any) -> Any:
        raise AssertionError("a step was trained, or a loss computed, again")

    for place in ("elastic._accumulate", "gumbel.Gumbel.step", "joint.routed_pass"):
        monkeypatch.setattr(f"flextron_export.training.{place}", trains)
    verb.run(*arguments, out, resume=True)
    assert content(out) == content(expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["expected", "out"]


def _emptied(directory: Path) -> Path:
    for path in directory.iterdir():
        path.unlink()
    return directory


@pytest.mark.parametrize("name", ["elastify", "route", "search"])
def test_a_disk_that_is_full_at_the_end_loses_nothing(
    name: str,
    tiny_model_dir: Path,
    tiny_checkpoint: Path,
    tiny_text: Path,
    tmp_path: Path,
    small_disk: Callable[[int], Path],
) -> None:
    weights = (tiny_checkpoint / "model.safetensors").stat().st_size
    disk = small_disk(weights // 1024 + 8)  # the weights fit, but not the rest
    out, work = disk / "out", tmp_path / "work"
    arguments = (tiny_model_dir, tiny_checkpoint, tiny_text, out)
    options: dict[str, Any] = {"work": work, **({"joint_tokens": 0} if name == "route" else {})}
    with pytest.raises(InputError, match=r"disk is full(.|\n)*the run is kept: .*--resume --work .*work"):
        VERBS[name].run(*arguments, **options)
    assert not list(disk.iterdir())
    small_disk(4000)
    VERBS[name].run(*arguments, resume=True, **options)
    VERBS[name].run(*arguments[:-1], tmp_path / "expected", **{**options, "work": None})
    assert content(out) == content(tmp_path / "expected")


@pytest.mark.slow
def test_a_file_size_limit_below_the_states_still_gives_the_result(
    tiny_model_dir: Path, tiny_text: Path, tmp_path: Path
) -> None:
    # The state after the last step holds the optimiser's moments too, so it is larger than the result.
    limit = (tiny_model_dir / "model.safetensors").stat().st_size * 3 // 2 // 1024
    for blocks, code in ((limit, 0), (limit // 4, 3)):
        out = tmp_path / f"out-{blocks}"
        command = f"ulimit -f {blocks}; exec {sys.executable} -m flextron_export elastify {tiny_model_dir}"
        command += f" --text {tiny_text} --out {out} --tokens 384 --length 32 --batch 4 --threads 1"
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stderr
        assert "was not written" in done.stderr and "Traceback" not in done.stderr
        assert out.exists() == (code == 0)
        assert ("A file is too large" in done.stderr) == (code == 3)
