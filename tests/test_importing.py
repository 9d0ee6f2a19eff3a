"""A nested model and its slicing table become an elastic checkpoint: the same bytes, the table's budgets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from flextron_export.cli import main
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.model import load_model, narrowed
from flextron_export.errors import CheckpointError, InputError
from flextron_export.importing import import_slices

TABLE = """name,FFN Hidden Dims,Layers Skipped
whole,"[128, 128]",
mixed,"[16 * 4, 128]",null
shallow,"[128]","[0]"
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "slices.csv"
    path.write_text(TABLE)
    return path


def test_the_model_stays_as_it_is_and_gets_the_budgets(tiny_model_dir: Path, table: Path, tmp_path: Path) -> None:
    found = import_slices(tiny_model_dir, table, tmp_path / "out", names=["whole", "mixed"])
    assert [b.name for b in found.budgets] == ["full", "mixed"]
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (found.path / name).read_bytes() == (tiny_model_dir / name).read_bytes()
    found.check_files()
    assert found.sorting["importance"] == "nested by its maker" and found.sorting["table"] == "slices.csv"


def test_a_slice_computes_what_the_first_neurons_compute(tiny_model_dir: Path, table: Path, tmp_path: Path) -> None:
    """MatFormer's slices: the first rows of gate and up, the first columns of down, by transformers alone."""
    import torch

    found = import_slices(tiny_model_dir, table, tmp_path / "out", names=["mixed"])
    model, ids = load_model(found.path), torch.arange(12)[None]
    with torch.inference_mode(), narrowed(model, found.architecture, found.budget("mixed")):
        narrow = model(ids).logits.numpy()
    whole = load_model(tiny_model_dir)
    mlp = whole.model.layers[0].mlp
    with torch.inference_mode():
        for linear in (mlp.gate_proj, mlp.up_proj):
            linear.weight[64:] = 0
        expected = whole(ids).logits.numpy()
    np.testing.assert_allclose(narrow, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_command_shows_budgets_and_refuses_by_name(tiny_model_dir: Path, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["import", str(tiny_model_dir), "--slices", str(table), "--out", str(out)]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == InputError.exit_code and "shallow: it leaves out layers 0" in refused.stderr
    assert not out.exists()
    chosen = [*arguments, "--slice", "whole", "--slice", "mixed"]
    done = CliRunner().invoke(main, chosen)
    assert done.exit_code == 0 and "mixed" in done.stdout and "64–128, mean 96.0" in done.stdout
    again = CliRunner().invoke(main, chosen)
    assert again.exit_code == InputError.exit_code and "--overwrite" in again.stderr
    value = json.loads(CliRunner().invoke(main, [*chosen, "--overwrite", "--json"]).stdout)
    assert value["candidates"]["neurons"] == [64, 128] and ElasticCheckpoint.open(out).budget("mixed")


def test_weights_that_do_not_fit_are_refused(tiny_model_dir: Path, table: Path, tmp_path: Path) -> None:
    import shutil

    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_size": 128}))
    with pytest.raises(CheckpointError, match="do not fit"):
        import_slices(model, table, tmp_path / "out", names=["whole"])
    assert not (tmp_path / "out").exists()
