"""The verb and the command `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flextron_export import evaluate
from flextron_export.cli.evaluate import evaluate_command
from flextron_export.errors import BundleError, CheckpointError, InputError

ROOT = Path(__file__).resolve().parents[2]
TASK = str(ROOT / "calibration/tasks/last_word.yaml")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate_command, [*map(str, arguments), "--threads", "1"])


def test_a_checkpoint_and_its_bundle_have_equal_scores(evaluated: Path, tiny_text: Path) -> None:
    options = {"text": [tiny_text], "tasks": [TASK], "max_tokens": 300, "limit": 3, "threads": 1}
    torch, bundle = (evaluate(evaluated / kind, **options) for kind in ("checkpoint", "bundle"))  # type: ignore[arg-type]
    assert torch.about["kind"] == "checkpoint" and bundle.about["target"] == "onnxruntime-cpu"
    assert [s.budget.name for s in torch.scores] == ["full", "tapered", "crossed", "small"]
    for one, other in zip(torch.scores, bundle.scores, strict=True):
        assert one.budget == other.budget and one.parameters == other.parameters
        assert one.text is not None and other.text is not None and one.text.tokens == 300
        assert one.text.nats_per_token == pytest.approx(other.text.nats_per_token, abs=1e-4)
        assert one.tasks["kjv_last_word"] == pytest.approx(other.tasks["kjv_last_word"], rel=5e-3)
    assert len({s.text.nats for s in torch.scores if s.text}) == 4, "every budget is another network"


def test_the_command_prints_a_row_per_budget_and_draws(evaluated: Path, tiny_text: Path, tmp_path: Path) -> None:
    plot = tmp_path / "scores.svg"
    text = "--text", tiny_text, "--max-tokens", 100
    result = run(evaluated / "bundle", *text, "--tasks", TASK, "--limit", 2, "--plot", plot)
    assert result.exit_code == 0, result.output
    for words in ("perplexity", "nats per token", "onnxruntime-cpu", "kjv_last_word: acc", "tapered", "±"):
        assert words in result.stdout
    drawn = plot.read_text()
    assert all(f"<!-- {words} -->" in drawn for words in ("nats per token", "kjv_last_word: acc", "small"))


def test_json_is_all_there_is_on_standard_output(evaluated: Path, tiny_text: Path) -> None:
    arguments = (
        "--text",
        tiny_text,
        "--max-tokens",
        50,
        "--tasks",
        TASK,
        "--limit",
        2,
        "--json",
        "--budget",
        "small,full",
    )
    value = json.loads(run(evaluated / "checkpoint", *arguments, "--device", "cpu").stdout)
    assert value["kind"] == "checkpoint" and value["device"] == "cpu"
    assert [b["budget"] for b in value["budgets"]] == ["full", "small"]
    for b in value["budgets"]:
        assert b["text"]["tokens"] == 50 and b["text"]["perplexity"] > 1
        assert {"perplexity", "perplexity_stderr", "acc", "acc_stderr"} == set(b["tasks"]["kjv_last_word"])


def test_what_cannot_be_evaluated_is_refused(evaluated: Path, tiny_text: Path) -> None:
    text = "--text", tiny_text
    for arguments, kind, message in (
        (["checkpoint"], InputError, "nothing to score"),
        (["checkpoint", *text, "--budget", "p99"], CheckpointError, "no budget 'p99'"),
        (["bundle", *text, "--budget", "p99"], BundleError, "'p99' was not exported"),
        (["checkpoint", *text, "--target", "onnxruntime-cpu"], InputError, "--target onnxruntime-cpu"),
        (["bundle", *text, "--batch", 0], InputError, "batch of 0"),
        (["bundle", "--text", "nowhere.txt"], InputError, "There is no text file"),
        (["bundle", *text, "--plot", "scores.doc"], InputError, "no image format"),
    ):
        error = run(evaluated / str(arguments[0]), *arguments[1:]).exception
        assert isinstance(error, kind) and message in str(error), arguments
