"""Export writes a whole bundle or nothing, and never writes weights that a precision cannot hold."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.safetensors import SafetensorsFile, TensorPlan, write_safetensors
from flextron_export.errors import CheckpointError, InputError
from flextron_export.exporting import export
from flextron_export.files import sha256
from tests.random_bundle import random_bundle

QUICK: dict[str, Any] = {"layouts": ["panels"], "dtypes": ["fp32"], "verify": False}


def test_the_files_are_those_of_the_format(whole: Bundle) -> None:
    assert {p.relative_to(whole.path).as_posix() for p in whole.path.rglob("*") if p.is_file()} == {
        "manifest.json",
        "manifest.sha256",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "config.json",
        *(f"weights.{dtype}.safetensors" for dtype in ("fp32", "fp16")),
        *(f"golden.{dtype}.json" for dtype in ("fp32", "fp16")),
        *(f"graphs/{layout}.{dtype}.onnx" for layout in ("panels", "shared") for dtype in ("fp32", "fp16")),
        *(f"graphs/per-budget.{b.name}.{dtype}.onnx" for b in whole.budgets for dtype in ("fp32", "fp16")),
    }
    assert all(p.stat().st_mode & 0o444 == 0o444 for p in whole.path.rglob("*")), "everybody may read it"


def test_the_manifest_says_where_the_bundle_comes_from(whole: Bundle, checkpoint: ElasticCheckpoint) -> None:
    manifest = json.loads((whole.path / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("flextron-bundle", 1)
    assert manifest["source"]["checkpoint_sha256"] == sha256(checkpoint.path / "elastic.json")
    assert manifest["files"]["weights.fp32.safetensors"] == {
        "bytes": (whole.path / "weights.fp32.safetensors").stat().st_size,
        "sha256": sha256(whole.path / "weights.fp32.safetensors"),
    }
    sizes = [b["parameters"] for b in manifest["budgets"]]
    assert sizes == [b.parameters(whole.architecture) for b in whole.budgets]


def test_two_exports_are_the_same_bytes(checkpoint: ElasticCheckpoint, tmp_path: Path) -> None:
    for name in "ab":
        export(checkpoint.path, tmp_path / name, dtypes=["fp32"], verify=False)
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_only_what_is_asked_for_is_exported(checkpoint: ElasticCheckpoint, tmp_path: Path) -> None:
    bundle = export(
        checkpoint.path,
        tmp_path / "out",
        layouts=["per-budget"],
        dtypes=["fp16"],
        budgets=["small", "full"],
        verify=False,
    )
    assert bundle.layouts == {"fp16": ("per-budget",)}
    assert [b.name for b in bundle.budgets] == ["small", "full"]
    assert sorted(p.name for p in (bundle.path / "graphs").iterdir()) == [
        "per-budget.full.fp16.onnx",
        "per-budget.small.fp16.onnx",
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"layouts": ["panels", "magic"]},
            InputError,
            r"unknown layout 'magic' \(known: panels, shared, per-budget, routed\)",
        ),
        ({"dtypes": ["fp12"]}, InputError, "unknown dtype 'fp12'"),
        ({"layouts": []}, InputError, "no layout was given"),
        ({"dtypes": []}, InputError, "no dtype was given"),
        ({"layouts": ["panels", "panels"]}, InputError, "layout panels was given twice"),
        ({"budgets": ["full", "full"]}, InputError, "budget full was given twice"),
        ({"budgets": ["p99"]}, CheckpointError, "no budget 'p99'"),
        ({"layouts": ["magic"], "dtypes": ["fp12"]}, InputError, "magic.*fp12"),
    ],
)
def test_choices_that_make_no_sense_are_refused(
    checkpoint: ElasticCheckpoint, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export(checkpoint.path, tmp_path / "out", **{**QUICK, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a model directory"):
        export(tmp_path / "absent", tmp_path / "out")


def with_weight(checkpoint: ElasticCheckpoint, out: Path, name: str, value: float) -> Path:
    """A copy of the checkpoint with one value in one tensor changed."""
    shutil.copytree(checkpoint.path, out)
    file = SafetensorsFile(checkpoint.path / "model.safetensors")
    arrays = {n: file.read(n) for n in file.tensors}
    arrays[name].flat[-1] = value
    plans = {n: TensorPlan("F32", a.shape, lambda a=a: a) for n, a in arrays.items()}  # type: ignore[misc]
    write_safetensors(out / "model.safetensors", plans)
    return out


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    checkpoint: ElasticCheckpoint, tmp_path: Path, value: float
) -> None:
    damaged = with_weight(checkpoint, tmp_path / "damaged", DOWN, value)
    with pytest.raises(CheckpointError, match=rf"{DOWN} has values that are not finite(.|\n)*checkpoint is damaged"):
        export(damaged, tmp_path / "out", **QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["damaged"]


def test_weights_too_large_for_fp16_are_refused_by_name(checkpoint: ElasticCheckpoint, tmp_path: Path) -> None:
    large = with_weight(checkpoint, tmp_path / "large", DOWN, 70_000.0)
    with pytest.raises(CheckpointError, match=rf"{DOWN} has .*fp16(.|\n)*too large for fp16(.|\n)*--dtype fp32"):
        export(large, tmp_path / "out", **{**QUICK, "dtypes": ["fp32", "fp16"]})
    assert [p.name for p in tmp_path.iterdir()] == ["large"]
    assert export(large, tmp_path / "out", **QUICK).weights("fp32")["layers.1.down"].max() == 70_000.0


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A bundle that stands where another is to be exported; the checkpoint lies beside it."""
    return random_bundle(tmp_path, layouts=["panels"])


def everything(directory: Path) -> dict[str, str]:
    return {p.relative_to(directory).as_posix(): sha256(p) for p in directory.rglob("*") if p.is_file()}


def test_an_existing_bundle_is_replaced_only_if_asked(old: Path) -> None:
    before = everything(old)
    with pytest.raises(InputError, match="--overwrite"):
        export(old.parent / "checkpoint", old, **QUICK)
    assert everything(old) == before
    export(old.parent / "checkpoint", old, **{**QUICK, "layouts": ["shared"]}, overwrite=True)
    assert Bundle.open(old).layouts == {"fp32": ("shared",)}


def test_what_is_no_bundle_is_never_replaced(old: Path) -> None:
    with pytest.raises(InputError, match=r"was not written by this tool \(it has no manifest\.json\)"):
        export(old.parent / "checkpoint", old.parent / "checkpoint", **QUICK, overwrite=True)
    assert (old.parent / "checkpoint" / "elastic.json").is_file()


@pytest.mark.parametrize("name", ["weights.fp32.safetensors", "tokenizer.json"])
def test_a_full_disk_leaves_the_old_bundle_whole(old: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = everything(old)
    original = tempfile.mkdtemp

    def mkdtemp(**options: Any) -> str:
        directory = original(**options)
        os.symlink("/dev/full", f"{directory}/{name}")  # every write to it fails for want of space
        return directory

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with pytest.raises(InputError, match=r"disk is full: (.|\n)*what stood there before is unchanged"):
        export(old.parent / "checkpoint", old, **QUICK, overwrite=True)
    assert everything(old) == before
    assert sorted(p.name for p in old.parent.iterdir()) == ["bundle", "checkpoint"]


@pytest.mark.parametrize("work", ["writing weights", "building graphs"])
def test_a_killed_export_leaves_the_old_bundle_whole_and_the_next_one_tidies_up(old: Path, work: str) -> None:
    before = everything(old)
    script = """
import os, signal, sys
from flextron_export.exporting import export

def track(items, description):
    for i, item in enumerate(items):
        if i == 2 and description.startswith(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield item

export(sys.argv[1], sys.argv[2], dtypes=["fp32"], verify=False, overwrite=True, track=track)
"""
    arguments = [sys.executable, "-c", script, str(old.parent / "checkpoint"), str(old), work]
    process = subprocess.run(arguments, capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert everything(old) == before
    Bundle.open(old)
    assert len(list(old.parent.iterdir())) == 3, "the killed process left its half-written bundle"
    export(old.parent / "checkpoint", old, **QUICK, overwrite=True)
    assert sorted(p.name for p in old.parent.iterdir()) == ["bundle", "checkpoint"]


def test_a_disk_that_is_really_full_is_told_and_leaves_nothing(
    checkpoint: ElasticCheckpoint, small_disk: Callable[[int], Path]
) -> None:
    place = small_disk(200)
    with pytest.raises(InputError, match=r"disk is (too )?full"):
        export(checkpoint.path, place / "out", **QUICK)
    assert list(place.iterdir()) == []
