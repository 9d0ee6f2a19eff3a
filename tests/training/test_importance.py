"""Every measure of importance equals its definition, computed the long way; sorting by it helps a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.model import load_model
from flextron_export.elastic.modules import blocks, output_weight
from flextron_export.elastic.widths import Budget, LayerWidth
from flextron_export.errors import InputError
from flextron_export.training.data import load_tokenizer, pack
from flextron_export.training.elastic import train
from flextron_export.training.elastify import sort_
from flextron_export.training.evaluate import validation_loss
from flextron_export.training.importance import CONTROLS, IMPORTANCE, MEASURES, Importance, measure_importance
from flextron_export.training.sampling import full_only
from flextron_export.training.settings import TrainingSettings
from flextron_export.training.tiny import tiny_model

TOKENS = np.random.default_rng(0).integers(0, 260, (6, 24))
UNITS = {"groups": (0, 2), "neurons": (5, 77)}
"""Units that are looked at."""


@pytest.fixture(scope="module", params=[4, 8], ids=["grouped", "multi-head"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Architecture]:
    path = tiny_model(tmp_path_factory.mktemp("model") / "model", kv_heads=request.param)
    return load_model(path), Architecture.from_config(read_config(path))


def columns(architecture: Architecture, kind: str, unit: int) -> slice:
    """Where a unit is in the input of its output projection."""
    size = architecture.heads_per_group * architecture.head_dim if kind == "groups" else 1
    return slice(unit * size, (unit + 1) * size)


def projection(model: Any, layer: int, kind: str) -> Any:
    block = blocks(model)[layer]
    return block.attention_output if kind == "groups" else block.ffn_output


def by_definition(model: Any, architecture: Architecture, measure: str, layer: int, kind: str, unit: int) -> float:
    """One unit's importance, from its inputs kept whole; `taylor` from finite differences of the loss."""
    import torch
    from torch.nn.functional import cross_entropy

    module, here = projection(model, layer, kind), columns(architecture, kind, unit)
    ids = torch.from_numpy(TOKENS)
    if measure == "taylor":

        def losses(gate: float) -> Any:  # of each sequence, with the unit multiplied by the gate
            def scale(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
                x = inputs[0].clone()
                x[..., here] *= gate
                return (x,)

            handle = module.register_forward_pre_hook(scale)
            with torch.inference_mode():
                logits = double(input_ids=ids, use_cache=False).logits[:, :-1]
            handle.remove()
            return cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").mean(1)

        double = model.double()
        step = 1e-2  # the model's norms compute in float32 even here, so a smaller one is lost in rounding
        slope = (losses(1 + step) - losses(1 - step)) / (2 * step)
        model.float()
        return float(slope.abs().mean())
    seen = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    with torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    handle.remove()
    x = seen[0][..., here]  # [sequences, length, channels]
    added = (x @ output_weight(module).detach()[:, here].T).norm(dim=-1)
    if measure == "rms":
        return float(added.square().mean().sqrt())
    if measure == "mean":
        return float(added.mean())
    return float(x.abs().mean(1).square().mean(0).sqrt().norm())


@pytest.mark.parametrize("measure", MEASURES)
def test_it_equals_its_definition(model: tuple[Any, Architecture], measure: str) -> None:
    network, architecture = model
    importance = measure_importance(network, architecture, TOKENS, measure=measure, batch=4)
    for kind, units in UNITS.items():
        values = getattr(importance, kind)
        assert values.shape == (2, {"groups": architecture.num_kv_heads, "neurons": 128}[kind])
        for layer in (0, 1):
            for unit in units:
                expected = by_definition(network, architecture, measure, layer, kind, unit)
                tolerance = 2e-3 if measure == "taylor" else 1e-4
                assert values[layer, unit] == pytest.approx(expected, rel=tolerance), (kind, layer, unit)


@pytest.mark.parametrize("measure", MEASURES)
def test_it_does_not_depend_on_the_batch(model: tuple[Any, Architecture], measure: str) -> None:
    one, all_ = (measure_importance(*model, TOKENS, measure=measure, batch=b) for b in (1, 6))
    np.testing.assert_allclose(one.groups, all_.groups, rtol=1e-3)
    np.testing.assert_allclose(one.neurons, all_.neurons, rtol=1e-3)


def test_the_statistics_have_the_size_of_the_model_and_not_of_the_text(model: tuple[Any, Architecture]) -> None:
    import torch

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            for tensor in found if isinstance(found, (tuple, list)) else [found]:
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return found

    for measure in MEASURES:
        sizes = []
        for tokens in (TOKENS[:2], np.tile(TOKENS, (4, 1))):
            with Largest() as largest:
                measure_importance(*model, tokens, measure=measure, batch=2)
            sizes.append(largest.elements)
        assert sizes[0] == sizes[1], measure


def test_measuring_leaves_the_model_as_it_was(model: tuple[Any, Architecture]) -> None:
    network, architecture = model
    before = [p.clone() for p in network.parameters()]
    attention = network.config._attn_implementation
    for measure in MEASURES:
        measure_importance(network, architecture, TOKENS, measure=measure)
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all((p == q).all() for p, q in zip(network.parameters(), before, strict=True))
    assert network.config._attn_implementation == attention
    assert not any(b.attention_output._forward_pre_hooks or b.ffn_output._forward_pre_hooks for b in blocks(network))


@pytest.mark.parametrize("measure", MEASURES)
def test_what_adds_nothing_comes_last(tmp_path: Path, measure: str) -> None:
    import torch

    path = tiny_model(tmp_path / "model")
    network, architecture = load_model(path), Architecture.from_config(read_config(path))
    with torch.no_grad():
        # `activation` does not look at the weights behind, so the activations themselves are zero.
        for kind, unit in (("groups", 0), ("neurons", 5)):
            here = columns(architecture, kind, unit)
            output_weight(projection(network, 0, kind))[:, here] = 0

            def silence(_: Any, inputs: tuple[Any, ...], here: slice = here) -> tuple[Any, ...]:
                x = inputs[0].clone()
                x[..., here] = 0
                return (x,)

            projection(network, 0, kind).register_forward_pre_hook(silence)
    groups, neurons = measure_importance(network, architecture, TOKENS, measure=measure).order()
    assert groups[0, -1] == 0 and neurons[0, -1] == 5
    assert sorted(neurons[1]) == list(range(128))


def test_orders() -> None:
    importance = Importance(np.array([[1.0, 3.0, 2.0]]), np.array([[5.0, 5.0, 7.0, 6.0]]))
    groups, neurons = importance.order()
    assert groups.tolist() == [[1, 2, 0]] and neurons.tolist() == [[2, 3, 0, 1]]
    assert importance.reordered(groups, neurons).neurons.tolist() == [[7.0, 6.0, 5.0, 5.0]]
    groups, neurons = importance.order("reversed")
    assert groups.tolist() == [[0, 2, 1]] and neurons.tolist() == [[1, 0, 3, 2]]
    assert importance.order("none")[1].tolist() == [[0, 1, 2, 3]]


def test_random_orders_are_permutations_that_follow_the_seed() -> None:
    importance = Importance(np.ones((3, 8)), np.ones((3, 64)))
    first, again, other = (importance.order("random", seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1]), "every layer has an order of its own"
    assert (np.sort(first, 1) == np.arange(64)).all()


def test_unknown_measures_are_refused_by_name(model: tuple[Any, Architecture]) -> None:
    with pytest.raises(InputError, match="no measure of importance 'magic'") as error:
        sort_(*model, TOKENS, "magic")
    assert all(name in str(error.value) for name in IMPORTANCE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_text: Path) -> tuple[Any, Architecture, np.ndarray]:
    """A tiny model trained for a few seconds, and a text like the one it has learned."""
    path = tiny_model(tmp_path_factory.mktemp("trained") / "model")
    network, architecture = load_model(path), Architecture.from_config(read_config(path))
    tokens = pack(tiny_text.read_text().split("\n\n"), load_tokenizer(path), 32, architecture.vocab_size, 0)
    settings = TrainingSettings(32 * 16 * 40, 16, 32, 5e-3, "ce", "adamw", threads=1)
    train(network, architecture, tokens, settings, full_only(architecture), progress=False)
    return network, architecture, tokens[:64]


@pytest.mark.parametrize("measure", MEASURES)
def test_a_trained_model_cut_after_sorting_loses_less_than_unsorted_or_reversed(
    trained: tuple[Any, Architecture, np.ndarray], measure: str
) -> None:
    import copy

    network, architecture, tokens = trained
    half = Budget("half", (LayerWidth(2, 64),) * 2)

    def loss(importance: str) -> float:
        sorted_ = copy.deepcopy(network)
        sort_(sorted_, architecture, tokens[:16], importance)
        return validation_loss(sorted_, architecture, half, tokens)

    by_measure, reverse, unsorted = loss(measure), loss("reversed"), loss("none")
    assert by_measure < unsorted < reverse, (by_measure, unsorted, reverse)


def test_controls_are_none_of_the_measures() -> None:
    assert not set(CONTROLS) & set(MEASURES) and set(IMPORTANCE) == {*CONTROLS, *MEASURES}
