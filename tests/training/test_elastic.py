"""The training loop."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.widths import Candidates, LayerWidth, full_budget
from flextron_export.errors import FlextronError, InputError
from flextron_export.training.elastic import TrainingSettings, full_only, full_smallest_random, train
from flextron_export.training.environment import enough_memory, thread_count
from flextron_export.training.evaluate import validation_loss

TEXT = np.tile(np.random.default_rng(0).integers(0, 260, 50), 40).reshape(-1, 50)  # easy to learn: 50 tokens, repeated
SETTINGS = TrainingSettings(tokens=1024, batch=4, length=16, learning_rate=3e-3, loss="ce", threads=1)


@pytest.fixture
def model(tiny_model_dir: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="module")
def architecture(tiny_model_dir: Path) -> Architecture:
    return Architecture.from_config(read_config(tiny_model_dir))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_plain_training_reduces_the_loss(model: Any, architecture: Architecture, optimizer: str) -> None:
    settings = replace(SETTINGS, optimizer=optimizer)
    losses = train(model, architecture, TEXT, settings, full_only(architecture), progress=False)
    assert len(losses) == settings.steps == 16
    assert losses[-1] < losses[0] - 0.5


def test_elastic_training_improves_every_budget(model: Any, architecture: Architecture) -> None:
    candidates = Candidates.default(architecture)
    budgets = candidates.uniform_budgets(architecture)
    before = [validation_loss(model, architecture, b, TEXT) for b in budgets]
    train(model, architecture, TEXT, SETTINGS, full_smallest_random(architecture, candidates), progress=False)
    after = [validation_loss(model, architecture, b, TEXT) for b in budgets]
    assert all(a < b - 0.3 for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("loss", ["distill", "mix"])
def test_distillation_follows_the_original(model: Any, architecture: Architecture, loss: str) -> None:
    teacher = copy.deepcopy(model).requires_grad_(False)
    candidates = Candidates.default(architecture)
    settings = replace(SETTINGS, loss=loss, learning_rate=1e-3)
    losses = train(
        model,
        architecture,
        TEXT,
        settings,
        full_smallest_random(architecture, candidates),
        teacher=teacher,
        progress=False,
    )
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert all(p.grad is None for p in teacher.parameters())


def test_distillation_of_the_full_model_starts_at_zero(model: Any, architecture: Architecture) -> None:
    teacher = copy.deepcopy(model).requires_grad_(False)
    settings = replace(SETTINGS, tokens=1, loss="distill", precision="fp32")
    assert (
        train(model, architecture, TEXT, settings, full_only(architecture), teacher=teacher, progress=False)[0] < 1e-5
    )


def test_the_same_seed_gives_the_same_weights(model: Any, architecture: Architecture) -> None:
    import torch

    candidates = Candidates.default(architecture)
    models = [copy.deepcopy(model) for _ in range(3)]
    for trained, seed in zip(models, (1, 1, 2), strict=True):
        settings = replace(SETTINGS, tokens=256, seed=seed)
        train(trained, architecture, TEXT, settings, full_smallest_random(architecture, candidates), progress=False)
    first, same, other = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_random_budgets_are_drawn_per_layer_from_the_candidates(architecture: Architecture) -> None:
    candidates = Candidates.default(architecture)
    sampler = full_smallest_random(architecture, candidates)
    random = np.random.default_rng(0)
    drawn = [sampler(random) for _ in range(200)]
    assert all(full == full_budget(architecture) for full, _, _ in drawn)
    assert {w for _, small, _ in drawn for w in small.layers} == {LayerWidth(2, 32)}
    pairs = [(w.groups, w.neurons) for _, _, draw in drawn for w in draw.layers]
    assert set(pairs) == {(g, n) for g in candidates.groups for n in candidates.neurons}
    assert any(len(set(draw.layers)) == 2 for _, _, draw in drawn)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_weights(model: Any, architecture: Architecture) -> None:
    import torch

    settings = replace(SETTINGS, learning_rate=1e30, clip=1e30, warmup=0)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FlextronError, match=r"diverged at step 2 of 16(.|\n)*--learning-rate"):
        train(model, architecture, TEXT, settings, full_only(architecture), progress=False)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("change", [{"accumulate": 2}, {"recompute": True}], ids=str)
def test_what_saves_memory_changes_the_weights_by_rounding_only(
    model: Any, architecture: Architecture, change: dict[str, Any]
) -> None:
    import torch

    settings = replace(SETTINGS, tokens=256, precision="fp32")
    results = []
    for options in (settings, replace(settings, **change)):
        trained, sampler = copy.deepcopy(model), full_smallest_random(architecture, Candidates.default(architecture))
        losses = train(trained, architecture, TEXT, options, sampler, progress=False)
        results.append((losses, torch.cat([p.detach().flatten() for p in trained.parameters()])))
        assert not any(getattr(module, "gradient_checkpointing", False) for module in trained.modules())
        validation_loss(trained, architecture, full_budget(architecture), TEXT)
    (losses, weights), (other_losses, other_weights) = results
    assert other_losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(other_weights, weights, rtol=1e-3, atol=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(model: Any, architecture: Architecture) -> None:
    with pytest.raises(InputError, match="a batch of 4 cannot be shared by 1 processes in 3 parts each"):
        train(model, architecture, TEXT, replace(SETTINGS, accumulate=3), full_only(architecture))


def test_precisions_that_accelerate_is_configured_for_but_are_not_supported_are_refused(
    model: Any, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(InputError, match="mixed precision fp16 is not supported, bf16 is"):
        train(model, architecture, TEXT, SETTINGS, full_only(architecture))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(InputError, match="configured for bf16, but the precision asked for is fp32"):
        train(model, architecture, TEXT, replace(SETTINGS, precision="fp32"), full_only(architecture))


def test_tensorboard_shows_every_sub_network_and_nothing_beyond_an_interruption(
    model: Any, architecture: Architecture, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from flextron_export.training.metrics import tensorboard

    sampler = full_smallest_random(architecture, Candidates.default(architecture))
    losses = train(model, architecture, TEXT, SETTINGS, sampler, metrics=tmp_path, progress=False)
    shown = EventAccumulator(str(tmp_path)).Reload()
    names = {"loss/full", "loss/smallest", "loss/random", "loss/mean", "learning_rate", "gradient_norm"}
    assert set(shown.Tags()["scalars"]) == names | {"tokens_per_second"}
    assert [event.value for event in shown.Scalars("loss/mean")] == pytest.approx(losses, rel=1e-6)
    parts = [[e.value for e in shown.Scalars(f"loss/{name}")] for name in ("full", "smallest", "random")]
    assert np.mean(parts, axis=0) == pytest.approx(losses, rel=1e-6)
    assert shown.Scalars("learning_rate")[0].value == pytest.approx(SETTINGS.learning_rate)
    with tensorboard(tmp_path, start=10) as write:
        write(11, {"loss/mean": 1.0})
    again = EventAccumulator(str(tmp_path)).Reload().Scalars("loss/mean")
    assert [event.step for event in again] == [*range(1, 12)]


def test_zero_tokens_train_nothing(model: Any, architecture: Architecture) -> None:
    assert train(model, architecture, TEXT, replace(SETTINGS, tokens=0), full_only(architecture), progress=False) == []


def test_every_bad_setting_is_named_at_once() -> None:
    bad = TrainingSettings(
        -1, batch=0, length=1, learning_rate=float("nan"), loss="x", optimizer="y", threads=0, warmup=2
    )
    with pytest.raises(InputError) as error:
        bad.validate()
    for name in ("tokens", "batch", "length", "learning_rate", "loss", "optimizer", "threads", "warmup"):
        assert f"{name} is" in str(error.value)
    with pytest.raises(InputError, match=r"seed is (.|\n)*threads is 1000000"):
        replace(SETTINGS, seed=1 << 40, threads=1_000_000).validate()


@pytest.mark.parametrize("threads", [0, 1_000_000, 10**10])
def test_threads_that_no_machine_has_are_refused(threads: int) -> None:
    with pytest.raises(InputError, match="threads cannot run anything"), thread_count(threads):
        pass


def test_too_little_memory_is_an_error_that_names_what_saves_some(model: Any, architecture: Architecture) -> None:
    import torch

    with pytest.raises(InputError, match=r"not enough memory for training(.|\n)*--accumulate"):
        train(model, architecture, TEXT, replace(SETTINGS, batch=10**15), full_only(architecture), progress=False)
    with pytest.raises(InputError, match=r"not enough memory for this(.|\n)*less"), enough_memory("this", "use less"):
        torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="shape"), enough_memory("this", "use less"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


def test_a_directory_for_tensorboard_that_cannot_be_made_is_refused(
    model: Any, architecture: Architecture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("text")
    for place in (tmp_path / "file", tmp_path / "file" / "events"):
        with pytest.raises(InputError, match="cannot be written"):
            train(model, architecture, TEXT, SETTINGS, full_only(architecture), metrics=place, progress=False)


def test_distillation_without_a_teacher_is_refused(model: Any, architecture: Architecture) -> None:
    with pytest.raises(InputError, match="teacher"):
        train(model, architecture, TEXT, replace(SETTINGS, loss="distill"), full_only(architecture))


def test_progress_without_a_terminal_is_a_line_every_tenth(
    model: Any, architecture: Architecture, capsys: pytest.CaptureFixture[str]
) -> None:
    train(model, architecture, TEXT, SETTINGS, full_only(architecture), description="plain")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("plain: step 16/16, loss ") and "tokens/s" in lines[-1]


def test_no_module_drops_anything_in_training(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    drop = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, **drop)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path)
    teacher = copy.deepcopy(model).requires_grad_(False)
    architecture = Architecture.from_config(read_config(tmp_path))
    settings = replace(SETTINGS, tokens=128, loss="distill", precision="fp32")
    losses = train(model, architecture, TEXT, settings, full_only(architecture), teacher=teacher, progress=False)
    # The full model still is the original in the first step: dropout would drive it away.
    assert losses[0] == pytest.approx(0, abs=1e-6)
    assert {m.p for m in model.modules() if hasattr(m, "p")} == {0.5}, "afterwards the model is as configured"


def test_the_full_models_loss_can_count_more(model: Any, architecture: Architecture) -> None:
    import torch

    full, small = full_budget(architecture), Candidates.default(architecture).uniform_budgets(architecture)[-1]
    assert full.layers != small.layers

    def step(budgets: list[Any], **changes: Any) -> torch.Tensor:
        trained = copy.deepcopy(model)
        settings = replace(SETTINGS, tokens=64, clip=1e9, precision="fp32", **changes)
        gradients: list[torch.Tensor] = []
        handle = trained.model.layers[0].mlp.down_proj.weight.register_post_accumulate_grad_hook(
            lambda p: gradients.append(p.grad.clone())
        )
        train(trained, architecture, TEXT, settings, lambda random: budgets, progress=False)
        handle.remove()
        return gradients[-1]  # all passes of the step

    of_full, of_small = step([full]), step([small])
    torch.testing.assert_close(step([full, small]), (of_full + of_small) / 2)
    torch.testing.assert_close(step([full, small], full_weight=3.0), (3 * of_full + of_small) / 4)
    with pytest.raises(InputError, match="full_weight is 0"):
        replace(SETTINGS, full_weight=0.0).validate()
