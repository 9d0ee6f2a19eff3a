"""From an elastic checkpoint to one with a router and its budgets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.architecture import read_config
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.model import load_model
from flextron_export.elastic.widths import full_budget
from flextron_export.errors import CheckpointError, FlextronError, InputError
from flextron_export.files import sha256
from flextron_export.training.corpus import read_text, split
from flextron_export.training.data import load_tokenizer, pack, spread
from flextron_export.training.evaluate import validation_loss
from flextron_export.training.latency_model import LatencyModel
from flextron_export.training.route import route
from flextron_export.training.routed_latency import RoutedLatency
from flextron_export.training.router_budgets import router_budget

TABLE = LatencyModel("decode", 8, 0.1, (0.1, 0.15, 0.2), (0.1, 0.15, 0.2, 0.25))
QUICK: dict[str, Any] = {
    "latency_model": TABLE,
    "targets": (0.8, 0.7),
    "tokens": 512,
    "batch": 4,
    "length": 32,
    "hidden_size": 8,
    "threads": 1,
    "progress": False,
}


def content(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): sha256(p) for p in sorted(directory.rglob("*")) if p.is_file()}


def results(checkpoint: ElasticCheckpoint) -> tuple[dict[str, Any], ...]:
    router = checkpoint.router()
    assert router is not None
    return router.record.results


@pytest.fixture(scope="module")
def static(tiny_checkpoint: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> ElasticCheckpoint:
    out = tmp_path_factory.mktemp("route") / "static"
    return route(tiny_checkpoint, [tiny_text], out, budget_targets=(1, 0.9, 0.8, 0.75, 0.7), **QUICK)


def test_a_static_router_gives_named_budgets_with_measured_losses(
    static: ElasticCheckpoint, tiny_checkpoint: Path, tiny_text: Path
) -> None:
    before = ElasticCheckpoint.open(tiny_checkpoint)
    assert {b.name for b in static.budgets} == {b.name for b in before.budgets} | {"t90", "t80", "t75", "t70"}
    architecture, model = static.architecture, load_model(static.path)
    _, held_out = split(read_text([tiny_text]))
    end = read_config(static.path)["eos_token_id"]
    tokens = spread(pack(held_out, load_tokenizer(static.path), 32, architecture.vocab_size, end), 256)
    for budget in static.budgets:
        assert budget.validation_loss == pytest.approx(validation_loss(model, architecture, budget, tokens), abs=1e-5)
    for result in results(static):
        assert result["validation_loss"] == pytest.approx(static.budget(result["budget"]).validation_loss)
    assert [r["target"] for r in results(static)] == [1, 0.9, 0.8, 0.75, 0.7]
    assert static.budget("full").layers == full_budget(architecture).layers
    assert [b.parameters(architecture) for b in static.budgets] == sorted(
        (b.parameters(architecture) for b in static.budgets), reverse=True
    )


def test_latencies_are_within_a_twentieth_of_targets_that_were_not_trained(
    static: ElasticCheckpoint, tiny_text: Path
) -> None:
    latency = RoutedLatency.of(TABLE, static.architecture, static.candidates, "static")
    router = static.router()
    assert router is not None and router.record.targets == (1, 0.8, 0.7)
    for target in (*np.linspace(0.7, 1, 16), 0.9, 0.75):
        budget = router_budget(router, latency, float(target))
        assert TABLE.predict(budget, static.candidates) / TABLE.full(2) == pytest.approx(target, rel=0.05)
    # What was stored is what the router that was read back says, refined by the loss on the text it was trained on.
    documents, _ = split(read_text([tiny_text]), seed=static.training.get("seed", 0))
    text = pack(documents, load_tokenizer(static.path), 32, static.architecture.vocab_size, 0)
    model, text = load_model(static.path), spread(text, 32)
    for name, target in (("t90", 0.9), ("t75", 0.75)):
        again = router_budget(
            router, latency, target, loss=lambda budget: validation_loss(model, static.architecture, budget, text)
        )
        assert static.budget(name).layers == again.layers
        assert TABLE.predict(again, static.candidates) / TABLE.full(2) == pytest.approx(target, rel=0.05)


def test_weights_and_other_files_stay_as_they_were(static: ElasticCheckpoint, tiny_checkpoint: Path) -> None:
    before, after = content(tiny_checkpoint), content(static.path)
    assert {n for n in after if before.get(n) != after[n]} == {"elastic.json", "router.safetensors"}
    static.check_files()
    record = static.notes["router"]
    assert record["latency_model"] == TABLE.to_json()
    assert record["training"]["tokens"] == 512 and record["training"]["router_steps"] == 4
    assert "method" in record and record["hidden_size"] == 8


@pytest.mark.parametrize("kind", ["dynamic", "prompt"])
def test_other_kinds_report_mean_latency_and_widths(
    kind: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    plain = ElasticCheckpoint.open(tiny_checkpoint)
    out = route(tiny_checkpoint, [tiny_text], tmp_path / "out", kind=kind, method="surrogate", threshold=99, **QUICK)
    assert [b.name for b in out.budgets] == [b.name for b in plain.budgets]
    latency = RoutedLatency.of(TABLE, out.architecture, out.candidates, kind)
    assert [result["budget"] for result in results(out)] == ["full", None, None]
    for result in results(out):
        assert len(result["widths"]) == 2
        # The mean latency is linear in how often each candidate was chosen, so it follows from mean widths here.
        ms = TABLE.intercept + sum(
            np.interp(g, out.candidates.groups, latency.attention) + np.interp(n, out.candidates.neurons, latency.ffn)
            for g, n in result["widths"]
        )
        assert result["milliseconds"] == pytest.approx(ms, rel=1e-5)
        assert result["relative"] == pytest.approx(ms / latency.full, rel=1e-5)


def test_a_joint_fine_tune_changes_the_weights_and_helps_what_is_routed(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    options = {**QUICK, "joint_tokens": 1024, "joint_learning_rate": 3e-3}
    out = route(tiny_checkpoint, [tiny_text], tmp_path / "out", **options)
    plain = route(tiny_checkpoint, [tiny_text], tmp_path / "plain", **QUICK)
    assert sha256(out.path / "model.safetensors") != sha256(plain.path / "model.safetensors")
    out.check_files()
    out.weights()
    for name in ("full", "t70"):
        losses = out.budget(name).validation_loss, plain.budget(name).validation_loss
        assert losses[0] is not None and losses[1] is not None and losses[0] < losses[1] - 0.3
    assert out.notes["router"]["training"]["joint"]["tokens"] == 1024


def test_a_checkpoint_is_extended_in_place_only_when_asked(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    with pytest.raises(InputError, match="--overwrite"):
        route(copied, [tiny_text], copied, **QUICK)
    assert route(copied, [tiny_text], copied, overwrite=True, **{**QUICK, "tokens": 0}).router() is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "psychic"}, InputError, "kind 'psychic'(.|\n)*static, dynamic, prompt"),
        ({"method": "guess"}, InputError, "method 'guess'(.|\n)*gumbel, surrogate"),
        ({"targets": (1.2,)}, InputError, r"'1\.2' is neither a share"),
        ({"targets": (0.3,)}, InputError, r"0\.3 is below 0\.5(.|\n)*fastest .* reach is 0\.500"),
        ({"targets": ("0.1ms",)}, InputError, r"0\.1 is below"),
        ({"targets": ("fast",)}, InputError, "'fast' is neither a share"),
        ({"targets": (1,)}, InputError, "no target below"),
        ({"budget_targets": (0.6,)}, InputError, r"from 0\.7 to 1, not for 0\.6"),
        ({"latency_model": LatencyModel("decode", 8, 0.1, (0.1,), (0.1,))}, InputError, "1 entries for groups"),
        ({"latency_model": "/nowhere.json"}, InputError, "no latency model"),
        ({"hidden_size": 0}, InputError, "hidden size is 0"),
        ({"learning_rate": -1.0}, InputError, "learning_rate is -1"),
        ({"length": 100_000}, InputError, "100000 tokens is too long: the model has 256 positions"),
        ({"threads": 1_000_000}, InputError, "threads is 1000000"),
        ({"seed": 2**31}, InputError, "seed is 2147483648"),
        ({"joint_learning_rate": -1.0}, InputError, "learning_rate is -1"),
        ({"checkpoint": "/nowhere"}, CheckpointError, "nowhere"),
    ],
)
def test_what_cannot_be_used_is_refused_before_work_begins(
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    tiny_checkpoint: Path,
    tiny_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_work(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("flextron_export.training.route.load_model", no_work)
    options = {**QUICK, **options}
    with pytest.raises(error, match=message):
        route(options.pop("checkpoint", tiny_checkpoint), [tiny_text], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_router_that_memory_cannot_hold_is_refused(tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not enough memory for training routers(.|\n)*--hidden-size"):
        route(tiny_checkpoint, [tiny_text], tmp_path / "out", **{**QUICK, "hidden_size": 2**40})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["gumbel", "joint"])
def test_a_loss_that_is_no_number_leaves_the_checkpoint_untouched(
    stage: str, tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from flextron_export.training.routing import routed_pass

    def broken(*args: Any, **options: Any) -> Any:
        done = routed_pass(*args, **options)
        return replace(done, losses=done.losses * float("nan"))

    copied = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    before = content(copied)
    monkeypatch.setattr(f"flextron_export.training.{stage}.routed_pass", broken)
    with pytest.raises(FlextronError, match="diverged at step 1 of"):
        route(copied, [tiny_text], copied, overwrite=True, **{**QUICK, "tokens": 128, "joint_tokens": 128})
    assert content(copied) == before
    # What was trained before is kept, to go on from.
    assert [p.name for p in tmp_path.glob("copy.work/step-*")] == (["step-000000001"] if stage == "joint" else [])
