"""A checkpoint with other budgets keeps everything else, and appears whole or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.rewriting import with_budgets
from flextron_export.elastic.widths import Budget, LayerWidth
from flextron_export.errors import CheckpointError, InputError
from tests.random_bundle import random_checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "whole")


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> ElasticCheckpoint:
    """One with a file of the user's beside it."""
    path = Path(shutil.copytree(whole, tmp_path / "checkpoint"))
    (path / "README.md").write_text("mine")
    return ElasticCheckpoint.open(path)


def narrow(checkpoint: ElasticCheckpoint, name: str = "t50") -> Budget:
    width = LayerWidth(checkpoint.candidates.groups[0], checkpoint.candidates.neurons[0])
    return Budget(name, (width,) * checkpoint.architecture.num_layers, 3.5)


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_budgets_change_and_everything_else_stays(checkpoint: ElasticCheckpoint, tmp_path: Path) -> None:
    before = contents(checkpoint.path)
    out = with_budgets(
        checkpoint, (*checkpoint.budgets, narrow(checkpoint)), tmp_path / "out", notes={"search": {"a": 1}}
    )
    assert out.budgets == (*checkpoint.budgets, narrow(checkpoint))
    assert out.notes == {"search": {"a": 1}}
    same = replace(out, path=checkpoint.path, budgets=checkpoint.budgets, notes={}, files={})
    assert same == replace(checkpoint, files={})
    assert {k: v for k, v in contents(out.path).items() if k != "elastic.json"} == {
        k: v for k, v in before.items() if k != "elastic.json"
    }
    assert contents(checkpoint.path) == before
    # Nothing is shared: whoever writes into one of them does not change the other.
    assert not any(path.samefile(checkpoint.path / path.name) for path in out.path.iterdir())
    out.check_files()


def test_added_files_are_recorded_and_notes_survive_the_next_rewriting(
    checkpoint: ElasticCheckpoint, tmp_path: Path
) -> None:
    def table(directory: Path) -> None:
        (directory / "table.bin").write_bytes(b"table")

    first = with_budgets(
        checkpoint, checkpoint.budgets, tmp_path / "a", add=table, notes={"search": {"kind": "static"}}
    )
    second = with_budgets(first, (narrow(first),), tmp_path / "b")
    assert second.notes == {"search": {"kind": "static"}}
    second.weights()
    (second.path / "table.bin").write_bytes(b"Table")
    with pytest.raises(CheckpointError, match=r"table\.bin was altered"):
        second.check_files()


def test_files_that_are_left_out_are_neither_kept_nor_recorded(checkpoint: ElasticCheckpoint, tmp_path: Path) -> None:
    old = {file.path.name for file in checkpoint.weights().files}

    def weights(directory: Path) -> None:
        for name in old:
            (directory / name).write_bytes((checkpoint.path / name).read_bytes())

    out = with_budgets(checkpoint, checkpoint.budgets, tmp_path / "a", leave_out=["README.md"])
    assert "README.md" not in {path.name for path in out.path.iterdir()}
    assert old <= {path.name for path in out.path.iterdir()}
    replaced = with_budgets(checkpoint, checkpoint.budgets, tmp_path / "b", add=weights, leave_out=sorted(old))
    assert old <= set(replaced.files), "what was added stays, though its name is left out"
    replaced.weights()
    replaced.check_files()


def test_a_checkpoint_is_extended_in_place(checkpoint: ElasticCheckpoint) -> None:
    with pytest.raises(InputError, match="--overwrite"):
        with_budgets(checkpoint, (narrow(checkpoint),), checkpoint.path)
    out = with_budgets(checkpoint, (narrow(checkpoint),), checkpoint.path, overwrite=True)
    assert [b.name for b in out.budgets] == ["t50"]
    out.weights()
    assert (out.path / "README.md").read_text() == "mine"


def test_a_failure_leaves_what_stood_there(checkpoint: ElasticCheckpoint) -> None:
    def fail(directory: Path) -> None:
        (directory / "router.safetensors").write_bytes(b"half")
        raise RuntimeError("no more")

    before = contents(checkpoint.path)
    with pytest.raises(RuntimeError, match="no more"):
        with_budgets(checkpoint, (narrow(checkpoint),), checkpoint.path, add=fail, overwrite=True)
    assert contents(checkpoint.path) == before
    assert [p.name for p in checkpoint.path.parent.iterdir()] == ["checkpoint"]


def test_budgets_and_notes_that_do_not_fit_are_refused(checkpoint: ElasticCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'t50' is used twice"):
        with_budgets(checkpoint, (narrow(checkpoint), narrow(checkpoint)), tmp_path / "out")
    with pytest.raises(InputError, match=r"'weights' is a key of elastic\.json itself"):
        with_budgets(checkpoint, checkpoint.budgets, tmp_path / "out", notes={"weights": {}})
    assert not (tmp_path / "out").exists()
