"""`flextron-export elastify`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
from click.testing import CliRunner

from flextron_export.cli.elastify import elastify_command
from flextron_export.errors import InputError
from flextron_export.training.elastify import DTYPES
from flextron_export.training.importance import IMPORTANCE
from flextron_export.training.optimizer import OPTIMIZERS
from flextron_export.training.sampling import SAMPLINGS
from flextron_export.training.settings import LOSSES, PRECISIONS


def test_choices_are_those_of_the_function_and_need_no_torch() -> None:
    choices = {p.name: tuple(p.type.choices) for p in elastify_command.params if isinstance(p.type, click.Choice)}
    assert choices == {
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "precision": PRECISIONS,
        "sampling": SAMPLINGS,
        "importance": IMPORTANCE,
        "dtype": DTYPES,
    }
    code = "import sys, flextron_export.cli.elastify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_it_writes_a_checkpoint_and_lists_the_budgets(tiny_model_dir: Path, tiny_text: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_model_dir), "--text", str(tiny_text), "--length", "32", "--tokens", "0", "--threads", "1"]
    result = CliRunner().invoke(elastify_command, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "full" in result.output and "nats per token" in result.output
    result = CliRunner().invoke(elastify_command, [*arguments, "--out", str(tmp_path / "json"), "--json"])
    value = json.loads(result.stdout)
    assert value["checkpoint"] == str(tmp_path / "json")
    assert value["budgets"][0]["name"] == "full" and value["budgets"][0]["validation_loss"] > 0
    result = CliRunner().invoke(elastify_command, [*arguments, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, InputError)


def test_a_device_that_is_not_here_is_refused_by_name(tiny_model_dir: Path, tiny_text: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_model_dir), "--text", str(tiny_text), "--out", str(tmp_path / "out"), "--device", "foo"]
    error = CliRunner().invoke(elastify_command, arguments).exception
    assert isinstance(error, InputError) and "'foo' cannot be used here" in error.what
    assert not (tmp_path / "out").exists()


def test_the_measure_is_recorded_and_the_report_drawn(tiny_model_dir: Path, tiny_text: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_model_dir), "--text", str(tiny_text), "--length", "32", "--tokens", "0", "--threads", "1"]
    arguments += ["--importance", "random", "--importance-sequences", "4", "--seed", "3"]
    report = tmp_path / "report.png"
    result = CliRunner().invoke(elastify_command, [*arguments, "--out", str(tmp_path / "out"), "--report", str(report)])
    assert result.exit_code == 0, result.output
    sorting = json.loads((tmp_path / "out" / "elastic.json").read_text())["sorting"]
    assert sorting == {"measure": "random", "sequences": 4, "length": 32, "seed": 3}
    assert report.read_bytes().startswith(b"\x89PNG")
    result = CliRunner().invoke(elastify_command, [*arguments, "--out", str(tmp_path / "no"), "--report", "report.doc"])
    assert isinstance(result.exception, InputError) and not (tmp_path / "no").exists()
