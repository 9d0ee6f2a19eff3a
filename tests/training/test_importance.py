"""Importance is what a group or neuron adds to the residual stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.training.importance import measure_importance


@pytest.fixture
def model(tiny_model_dir: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_model_dir).eval()


@pytest.fixture
def architecture(tiny_model_dir: Path) -> Architecture:
    return Architecture.from_config(read_config(tiny_model_dir))


TOKENS = np.random.default_rng(0).integers(0, 260, (6, 24))


def test_it_equals_the_contributions_formed_one_by_one(model: Any, architecture: Architecture) -> None:
    import torch

    inputs: dict[str, torch.Tensor] = {}
    layer, a = model.model.layers[1], architecture
    for name, module in (("o", layer.self_attn.o_proj), ("down", layer.mlp.down_proj)):
        module.register_forward_pre_hook(lambda _, x, name=name: inputs.__setitem__(name, x[0].detach().flatten(0, 1)))
    importance = measure_importance(model, architecture, TOKENS, batch=6)
    size, group, neuron = a.heads_per_group * a.head_dim, 2, 77
    columns = slice(group * size, (group + 1) * size)
    added = inputs["o"][:, columns] @ layer.self_attn.o_proj.weight.detach()[:, columns].T
    assert importance.groups[1, group] == pytest.approx(added.norm(dim=1).square().mean().sqrt().item(), rel=1e-4)
    added = inputs["down"][:, [neuron]] @ layer.mlp.down_proj.weight.detach()[:, [neuron]].T
    assert importance.neurons[1, neuron] == pytest.approx(added.norm(dim=1).square().mean().sqrt().item(), rel=1e-4)


def test_it_does_not_depend_on_the_batch(model: Any, architecture: Architecture) -> None:
    one, all_ = (measure_importance(model, architecture, TOKENS, batch=b) for b in (1, 6))
    np.testing.assert_allclose(one.groups, all_.groups, rtol=1e-4)
    np.testing.assert_allclose(one.neurons, all_.neurons, rtol=1e-4)


def test_what_adds_nothing_comes_last(model: Any, architecture: Architecture) -> None:
    import torch

    layer, size = model.model.layers[0], architecture.heads_per_group * architecture.head_dim
    with torch.no_grad():
        layer.mlp.down_proj.weight[:, 5] = 0
        layer.self_attn.o_proj.weight[:, :size] = 0
    groups, neurons = measure_importance(model, architecture, TOKENS).order()
    assert groups[0, -1] == 0 and neurons[0, -1] == 5
    assert sorted(neurons[1]) == list(range(128))
