"""Routers on every family: their choices equal the slice of the same widths, and gradients reach all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.model import load_model, narrowed
from flextron_export.elastic.router import KINDS, RouterRecord
from flextron_export.elastic.widths import Budget, LayerWidth
from flextron_export.training.gumbel import Gumbel, by_sequence
from flextron_export.training.latency_model import LatencyModel
from flextron_export.training.routed_latency import RoutedLatency
from flextron_export.training.router_loss import frozen
from flextron_export.training.router_settings import RouterSettings
from flextron_export.training.routers import Routers, one_hot
from flextron_export.training.routing import routed
from tests.elastic_models import FAMILIES, MODELS, elastic_model

IDS = torch.randint(1, 260, (2, 25), generator=torch.Generator().manual_seed(3))
TARGETS = (1.0, 0.8, 0.7)
TABLE = LatencyModel("decode", 8, 0.1, (0.1, 0.15, 0.2), (0.1, 0.15, 0.2, 0.25))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ElasticCheckpoint]:
    directory: Path = tmp_path_factory.mktemp("family") / "model"
    checkpoint = elastic_model(directory, **MODELS[request.param])
    return load_model(directory), checkpoint


def routers(kind: str, checkpoint: ElasticCheckpoint) -> Routers:
    torch.manual_seed(0)
    return Routers(RouterRecord(kind, "gumbel", TARGETS, 8, checkpoint.candidates), checkpoint.architecture)


def test_a_static_routers_choice_equals_the_slice(family: tuple[Any, ElasticCheckpoint]) -> None:
    model, checkpoint = family
    candidates, static = checkpoint.candidates, routers("static", checkpoint)
    widths = tuple(
        LayerWidth(candidates.groups[row["attention"].argmax()], candidates.neurons[row["ffn"].argmax()])
        for row in static.numpy().layers(0.75)
    )
    assert any(w != LayerWidth(candidates.groups[-1], candidates.neurons[-1]) for w in widths), "nothing is narrowed"
    logits = static.of(0.75)
    with torch.no_grad():
        with routed(
            model,
            checkpoint.architecture,
            candidates,
            lambda i, part, x: one_hot(by_sequence(logits(i, part, x), len(x))),
        ):
            got = model(IDS).logits
        with narrowed(model, checkpoint.architecture, Budget("chosen", widths)):
            torch.testing.assert_close(got, model(IDS).logits, rtol=1e-4, atol=1e-4)


def test_a_dynamic_router_that_chooses_the_same_for_all_tokens_equals_the_slice(
    family: tuple[Any, ElasticCheckpoint],
) -> None:
    model, checkpoint = family
    candidates, dynamic = checkpoint.candidates, routers("dynamic", checkpoint)
    chosen: dict[tuple[int, str], int] = {}

    def constant(layer: int, part: str, x: torch.Tensor) -> torch.Tensor:
        """What the first token chooses, for all tokens."""
        uses = one_hot(logits(layer, part, x))
        chosen[layer, part] = int(uses[0, 0].argmax())
        return uses[:1, :1].expand_as(uses)

    logits = dynamic.of(0.75)
    with torch.no_grad():
        with routed(model, checkpoint.architecture, candidates, constant):
            got = model(IDS).logits
        widths = tuple(
            LayerWidth(candidates.groups[chosen[i, "attention"]], candidates.neurons[chosen[i, "ffn"]])
            for i in range(checkpoint.architecture.num_layers)
        )
        with narrowed(model, checkpoint.architecture, Budget("chosen", widths)):
            torch.testing.assert_close(got, model(IDS).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_the_text_reaches_every_router(kind: str, family: tuple[Any, ElasticCheckpoint]) -> None:
    model, checkpoint = family
    trained = routers(kind, checkpoint)
    before = {name: p.detach().clone() for name, p in trained.named_parameters()}
    latency = RoutedLatency.of(TABLE, checkpoint.architecture, checkpoint.candidates, kind)
    # Without the terms of the latency and the anchor, whose gradients do not cross the model.
    settings = RouterSettings(64, batch=2, length=24, latency_weight=0, anchor_weight=0, precision="fp32")
    with frozen(model):
        step = Gumbel(model, trained, latency, settings).step(IDS, 0.75, 0)
    assert step.finite and step.terms == 0
    for name, p in trained.named_parameters():
        assert not torch.equal(p, before[name]), f"{name} got no gradient"
    assert all(p.grad is None for p in model.parameters())
