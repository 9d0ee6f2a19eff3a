"""Training routers: what they learn, what they must not touch, when they must not step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.model import load_model
from flextron_export.elastic.router import KINDS, RouterRecord
from flextron_export.elastic.widths import Budget, Candidates, LayerWidth
from flextron_export.errors import FlextronError, InputError
from flextron_export.training.elastic import TrainingSettings, full_only, train
from flextron_export.training.gumbel import straight_through
from flextron_export.training.latency_model import LatencyModel
from flextron_export.training.routed_latency import RoutedLatency, query_share
from flextron_export.training.router_loop import train_routers, turns
from flextron_export.training.router_loss import latency_loss
from flextron_export.training.router_settings import RouterSettings
from flextron_export.training.routers import Routers, one_hot
from flextron_export.training.routing import routed_pass
from flextron_export.training.tiny import tiny_model

TEXT = np.tile(np.random.default_rng(0).integers(0, 260, 50), 40).reshape(-1, 50)  # easy to learn: 50 tokens, repeated
IDS = torch.from_numpy(TEXT[:8, :17])
TARGETS = {"static": (1.0, 0.75, 0.5), "prompt": (1.0, 0.75, 0.5), "dynamic": (1.0, 0.8, 0.7)}
SETTINGS = RouterSettings(tokens=40 * 64, batch=4, length=16, precision="fp32", threads=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that knows the text, and whose first FFN says nothing: a router should narrow that one first."""
    directory = tiny_model(tmp_path_factory.mktemp("routers") / "model", hidden=32, heads=4, kv_heads=4, head_dim=8)
    model = load_model(directory)
    architecture = Architecture.from_config(read_config(directory))
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.zero_()
    model.model.layers[0].mlp.requires_grad_(False)
    settings = TrainingSettings(4096, 8, 16, 1e-2, loss="ce", precision="fp32", threads=1)
    losses = train(model, architecture, TEXT, settings, full_only(architecture), progress=False)
    assert losses[-1] < 1
    model.requires_grad_(True)
    return model, architecture


@pytest.fixture
def model(trained: Any) -> Any:
    return trained[0]


@pytest.fixture(scope="module")
def architecture(trained: Any) -> Architecture:
    found: Architecture = trained[1]
    return found


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    return Candidates((2, 4), (32, 64, 96, 128))


@pytest.fixture(scope="module")
def table() -> LatencyModel:
    """Half of what can be saved is in attention, half in the FFN; a tenth is saved by nothing."""
    return LatencyModel("decode", 64, 0.1, (0.1, 0.2), (0.1, 0.15, 0.2, 0.25))


def routers(kind: str, architecture: Architecture, candidates: Candidates, method: str = "gumbel") -> Routers:
    torch.manual_seed(0)
    return Routers(RouterRecord(kind, method, TARGETS[kind], 16, candidates), architecture)


def choices(routers: Routers, model: Any, target: float) -> list[torch.Tensor]:
    with torch.no_grad():
        return [z.argmax(-1) for _, z in routed_pass(model, routers, target, IDS, one_hot, "fp32").logits]


def test_a_static_router_narrows_what_does_not_matter(
    model: Any, architecture: Architecture, candidates: Candidates, table: LatencyModel
) -> None:
    static = routers("static", architecture, candidates)
    latency = RoutedLatency.of(table, architecture, candidates, "static")
    done = train_routers(model, static, latency, TEXT, TEXT, SETTINGS, progress=False)
    assert done.stepped == SETTINGS.steps == 40
    _, first, _, second = choices(static, model, 0.75)
    assert first == 0 and second > 0, "the FFN that says nothing should be the narrow one"
    with torch.no_grad():
        probabilities = [(part, one_hot(z)) for part, z in routed_pass(model, static, 0.5, IDS, one_hot, "fp32").logits]
    assert latency.expected(probabilities).item() / latency.full < 0.65


@pytest.mark.parametrize("kind", KINDS)
def test_the_anchor_gives_the_full_model_at_target_1(
    kind: str, model: Any, architecture: Architecture, candidates: Candidates, table: LatencyModel
) -> None:
    trained = routers(kind, architecture, candidates)
    latency = RoutedLatency.of(table, architecture, candidates, kind)
    train_routers(model, trained, latency, TEXT, TEXT, SETTINGS, progress=False)
    assert all((c == w).all() for c, w in zip(choices(trained, model, 1.0), (1, 3, 1, 3), strict=True))
    with torch.no_grad():
        routed = routed_pass(model, trained, 1.0, IDS, one_hot, "fp32").losses
        full = torch.nn.functional.cross_entropy(model(IDS[:, :-1]).logits.flatten(0, 1), IDS[:, 1:].flatten())
    assert routed.mean().item() == pytest.approx(full.item(), abs=1e-6)


@pytest.mark.parametrize("method", ["gumbel", "surrogate"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_routers_are_changed(
    kind: str, method: str, model: Any, architecture: Architecture, candidates: Candidates, table: LatencyModel
) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained = routers(kind, architecture, candidates, method)
    start = {name: p.detach().clone() for name, p in trained.named_parameters()}
    settings = replace(SETTINGS, tokens=256, method=method, threshold=1e6)
    latency = RoutedLatency.of(table, architecture, candidates, kind)
    done = train_routers(model, trained, latency, TEXT, TEXT, settings, progress=False)
    waited = settings.warmup_steps if method == "surrogate" else 0
    assert done.stepped + waited == settings.steps == 4
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None and p.requires_grad, name
    for name, p in trained.named_parameters():
        assert not torch.equal(p, start[name]), f"{name} was not trained"


def test_no_router_steps_while_the_surrogate_is_wrong(
    model: Any, architecture: Architecture, candidates: Candidates, table: LatencyModel
) -> None:
    trained = routers("static", architecture, candidates, "surrogate")
    start = {name: p.detach().clone() for name, p in trained.named_parameters()}
    latency = RoutedLatency.of(table, architecture, candidates, "static")
    settings = replace(SETTINGS, method="surrogate", threshold=1e-6)
    done = train_routers(model, trained, latency, TEXT, TEXT, settings, progress=False)
    assert done.stepped == 0
    assert all(torch.equal(p, start[name]) for name, p in trained.named_parameters())
    errors = [step.error for step in done.steps if step.error is not None]
    assert np.mean(errors[-5:]) < np.mean(errors[:5]), "the surrogate learns all the same"
    # The same run with a threshold between: closed while the error is above it, open while it is below.
    settings = replace(settings, threshold=float(np.median(errors)))
    done = train_routers(model, trained, latency, TEXT, TEXT, settings, progress=False)
    assert 0 < done.stepped < settings.steps
    for step in done.steps:
        assert step.error is not None and (step.norm is None) == (step.error >= settings.threshold)


def test_the_surrogate_leads_routers_to_what_does_not_matter(
    model: Any, architecture: Architecture, candidates: Candidates, table: LatencyModel
) -> None:
    trained = routers("static", architecture, candidates, "surrogate")
    latency = RoutedLatency.of(table, architecture, candidates, "static")
    settings = replace(SETTINGS, tokens=50 * 64, method="surrogate", threshold=1.0)
    done = train_routers(model, trained, latency, TEXT, TEXT, settings, progress=False)
    assert done.stepped == settings.steps - settings.warmup_steps == 40
    assert all(step.norm is None for step in done.steps[: settings.warmup_steps]), "the surrogate learns first"
    _, first, _, second = choices(trained, model, 0.75)
    assert first < second
    assert all(c == w for c, w in zip(choices(trained, model, 1.0), (1, 3, 1, 3), strict=True))


def test_a_sample_is_exactly_one_hot_and_its_gradient_is_that_of_the_softened_one() -> None:
    logits = torch.randn(1000, 3, requires_grad=True)
    torch.manual_seed(1)
    hard = straight_through(logits, 0.7)
    assert ((hard == 0) | (hard == 1)).all() and (hard.sum(-1) == 1).all()
    direction = torch.randn(3)
    (hard @ direction).sum().backward()
    torch.manual_seed(1)
    noise = torch.empty(1000, 3).exponential_().log()
    again = logits.detach().requires_grad_(True)
    (((again - noise) / 0.7).softmax(-1) @ direction).sum().backward()
    torch.testing.assert_close(logits.grad, again.grad)
    torch.manual_seed(0)
    drawn = straight_through(torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3), 1.0).mean(0)
    torch.testing.assert_close(drawn, torch.tensor([0.0, 1.0, 2.0]).softmax(-1), atol=0.015, rtol=0)


def test_the_expected_latency_of_definite_choices_is_that_of_the_table(
    architecture: Architecture, candidates: Candidates, table: LatencyModel
) -> None:
    latency = RoutedLatency.of(table, architecture, candidates, "static")
    budget = Budget("mixed", (LayerWidth(2, 96), LayerWidth(4, 32)))
    definite = [("attention", torch.tensor([1.0, 0])), ("ffn", torch.tensor([0, 0, 1.0, 0]))]
    definite += [("attention", torch.tensor([0, 1.0])), ("ffn", torch.tensor([1.0, 0, 0, 0]))]
    expected = table.predict(budget, candidates)
    assert latency.expected(definite).item() == pytest.approx(expected)
    assert latency.of_budget(budget, candidates) == pytest.approx(expected)
    assert latency.full == pytest.approx(table.full(2)) and latency.fastest == pytest.approx(table.fastest(2))


def test_per_token_choices_cost_their_mean_and_keys_and_values_of_all_groups(
    architecture: Architecture, candidates: Candidates, table: LatencyModel
) -> None:
    latency = RoutedLatency.of(table, architecture, candidates, "dynamic")
    # Of each group and head_dim: q and o 2 x 32 weights, k and v as many, 2 x 64 cached numbers.
    assert query_share(table, architecture) == pytest.approx(64 / (64 + 64 + 128))
    narrow = 0.2 - 0.25 * (0.2 - 0.1)
    assert latency.attention == pytest.approx((narrow, 0.2)) and latency.ffn == table.neurons
    half = torch.eye(2)[torch.tensor([[0, 1], [1, 0]])]  # [batch, tokens, candidates]: half of the tokens are narrow
    full = torch.eye(4)[torch.full((2, 2), 3)]
    expected = 0.1 + 2 * (narrow + 0.2) / 2 + 2 * 0.25
    assert latency.expected([("attention", half), ("ffn", full)] * 2).item() == pytest.approx(expected)


def test_being_a_little_faster_costs_nothing_being_slower_does() -> None:
    for latency, expected in ((100.0, 0.0), (96.0, 0.0), (90.0, 0.05), (104.0, 0.04)):
        assert latency_loss(torch.tensor(latency), 100.0, 0.05).item() == pytest.approx(expected, abs=1e-6)


def test_trained_targets_take_turns_with_targets_between() -> None:
    targets = TARGETS["static"]
    order = turns(targets, 600, 0)
    assert all(order.count(t) == 100 for t in targets)
    assert all(0.5 < t < 1 for t in order[1::2]) and len(set(order[1::2])) == 300
    assert turns(targets, 600, 0) == order != turns(targets, 600, 1)


def test_targets_that_no_width_reaches_are_refused_with_the_fastest(
    model: Any, architecture: Architecture, candidates: Candidates, table: LatencyModel
) -> None:
    latency = RoutedLatency.of(table, architecture, candidates, "static")
    with pytest.raises(InputError, match=r"1\.5 is no share.*0\.2 is below 0\.500(.|\n)*0\.5 of 1 ms"):
        latency.check_targets((1.0, 0.2, 1.5))
    low = RouterRecord("static", "gumbel", (1.0, 0.3), 8, candidates)
    with pytest.raises(InputError, match=r"0\.3 is below 0\.500"):
        train_routers(model, Routers(low, architecture), latency, TEXT, TEXT, SETTINGS, progress=False)


def test_a_latency_model_of_other_candidates_is_refused(architecture: Architecture, candidates: Candidates) -> None:
    other = LatencyModel("decode", 64, 0.1, (0.1, 0.2), (0.1, 0.2))
    with pytest.raises(InputError, match="2 entries for neurons, there are 4 candidates"):
        RoutedLatency.of(other, architecture, candidates, "static")


@pytest.mark.parametrize("method", ["gumbel", "surrogate"])
def test_a_loss_that_is_no_number_stops_with_its_step(
    method: str,
    model: Any,
    architecture: Architecture,
    candidates: Candidates,
    table: LatencyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = routers("static", architecture, candidates, method)
    start = {name: p.detach().clone() for name, p in trained.named_parameters()}
    latency = RoutedLatency.of(table, architecture, candidates, "static")
    calls = []

    def third_is_nan(*args: Any, **options: Any) -> Any:
        calls.append(args)
        done = routed_pass(*args, **options)
        return replace(done, losses=done.losses * float("nan")) if len(calls) > 4 else done

    monkeypatch.setattr(f"flextron_export.training.{method}.routed_pass", third_is_nan)
    settings = replace(SETTINGS, method=method, threshold=1e6)
    with pytest.raises(FlextronError, match=r"diverged at step \d of 40: the loss is nan"):
        train_routers(model, trained, latency, TEXT, TEXT, settings, progress=False)
    assert all(torch.equal(p, start[name]) for name, p in trained.named_parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_every_bad_setting_is_named_at_once() -> None:
    bad = RouterSettings(-1, 0, 1, "guess", 0, -1, 1.5, float("inf"), 0, 0, 0, 0, 0, 1, 0, 0, "fp8", -1, 0)
    with pytest.raises(InputError) as error:
        bad.validate()
    for name in RouterSettings.__dataclass_fields__:
        assert f"{name} is" in str(error.value)
