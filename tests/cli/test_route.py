"""`flextron-export route`."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flextron_export.cli.inspect import inspect_command
from flextron_export.cli.route import route_command
from flextron_export.elastic.router import KINDS, METHODS
from flextron_export.training.latency_model import LatencyModel
from flextron_export.training.route import route


def test_choices_and_defaults_are_those_of_the_function() -> None:
    options = {p.name: p for p in route_command.params}
    choices = {name: tuple(p.type.choices) for name, p in options.items() if isinstance(p.type, click.Choice)}
    assert choices == {"kind": KINDS, "method": METHODS, "latency_phase": ("decode", "prefill")}
    for name, parameter in signature(route).parameters.items():
        if name not in ("checkpoint", "text", "out", "latency_model", "targets", "budget_targets", "progress"):
            assert not parameter.default or options[name].default == parameter.default, name
    assert options["targets"].default == (",".join(map(str, signature(route).parameters["targets"].default)),)


def test_it_prints_what_every_target_came_to(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    LatencyModel("decode", 8, 0.1, (0.1, 0.15, 0.2), (0.1, 0.15, 0.2, 0.25)).save(tmp_path / "table.json")
    arguments = [str(tiny_checkpoint), "--text", str(tiny_text), "--length", "32", "--tokens", "128", "--batch", "4"]
    arguments += ["--threads", "1", "--targets", "0.8", "--out", str(tmp_path / "out")]
    known = ["--latency-model", str(tmp_path / "table.json")]
    plot = tmp_path / "plots" / "widths.png"
    result = CliRunner().invoke(route_command, [*arguments, *known, "--plot", str(plot)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "static router" in result.stdout and "t80" in result.stdout and "0.8 " in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    result = CliRunner().invoke(route_command, [*arguments, *known, "--overwrite", "--json"], catch_exceptions=False)
    value = json.loads(result.stdout)
    assert [r["target"] for r in value["router"]["results"]] == [1, 0.8]
    assert "t80" in {b["name"] for b in value["budgets"]}
    shown = CliRunner().invoke(inspect_command, [str(tmp_path / "out")], catch_exceptions=False)
    assert "static router" in shown.stdout and "nats per token" in shown.stdout
    shown = CliRunner().invoke(inspect_command, [str(tmp_path / "out"), "--json"], catch_exceptions=False)
    assert json.loads(shown.stdout)["router"] == value["router"]
    assert CliRunner().invoke(route_command, arguments).exit_code == 2
    assert CliRunner().invoke(route_command, [*arguments, *known, "--latency-device", "h100"]).exit_code == 2
