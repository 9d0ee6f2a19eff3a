"""`flextron-export elastify`."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from flextron_export.cli.elastify import elastify_command
from flextron_export.errors import InputError


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
