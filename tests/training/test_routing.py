"""Routers' choices applied to a model equal the sub-network they name, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear, silu

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.model import load_model, narrowed
from flextron_export.elastic.modules import blocks
from flextron_export.elastic.router import KINDS, RouterRecord
from flextron_export.elastic.tensors import rows
from flextron_export.elastic.widths import Budget, Candidates, LayerWidth
from flextron_export.training.routers import Routers, one_hot
from flextron_export.training.routing import routed

IDS = torch.arange(1, 33).reshape(2, 16)
TARGETS = (1.0, 0.75, 0.5)


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_model(tiny_model_dir)


@pytest.fixture(scope="module")
def architecture(tiny_model_dir: Path) -> Architecture:
    return Architecture.from_config(read_config(tiny_model_dir))


@pytest.fixture(scope="module")
def candidates(architecture: Architecture) -> Candidates:
    return Candidates.default(architecture)


def routers(kind: str, architecture: Architecture, candidates: Candidates, seed: int = 0) -> Routers:
    torch.manual_seed(seed)
    return Routers(RouterRecord(kind, "gumbel", TARGETS, 8, candidates), architecture)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_computes_what_numpy_computes(kind: str, architecture: Architecture, candidates: Candidates) -> None:
    trained = routers(kind, architecture, candidates)
    plain = trained.numpy()
    x = torch.randn(2, 5, architecture.hidden_size)
    for target in (1.0, 0.8, 0.5):
        logits = trained.of(target, x)
        for i in range(architecture.num_layers):
            for part in ("attention", "ffn"):
                got = logits(i, part, x).detach().numpy()
                if kind == "dynamic":
                    expected = plain.logits(f"layers.{i}.{part}", target, x.numpy())
                elif kind == "static":
                    expected = plain.layers(target)[i][part]
                else:
                    expected = np.stack([plain.layers(target, p.mean(0))[i][part] for p in x.numpy()])[:, None]
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["static", "prompt"])
def test_choices_for_all_tokens_equal_the_slice_of_the_same_widths(
    kind: str, model: Any, architecture: Architecture, candidates: Candidates
) -> None:
    trained = routers(kind, architecture, candidates)
    prompts = model.get_input_embeddings()(IDS)
    with torch.no_grad():
        logits = trained.of(0.6, prompts)
        with routed(model, architecture, candidates, lambda i, part, x: one_hot(logits(i, part, x))):
            got = model(IDS).logits
        plain = trained.numpy()
        seen = set()
        for row, ids in enumerate(IDS):
            choice = plain.layers(0.6, prompts[row].mean(0).numpy() if kind == "prompt" else None)
            widths = tuple(
                LayerWidth(
                    candidates.groups[c["attention"].argmax().item()], candidates.neurons[c["ffn"].argmax().item()]
                )
                for c in choice
            )
            seen.add(widths)
            with narrowed(model, architecture, Budget("chosen", widths)):
                torch.testing.assert_close(got[row : row + 1], model(ids[None]).logits, rtol=1e-4, atol=1e-4)
    assert any(w != LayerWidth(4, 128) for widths in seen for w in widths), "nothing was narrowed"


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_a_constant_choice_per_token_equals_the_slice(
    choice: int, model: Any, architecture: Architecture, candidates: Candidates
) -> None:
    def decide(layer: int, part: str, x: torch.Tensor) -> torch.Tensor:
        count = len(candidates.groups if part == "attention" else candidates.neurons)
        return torch.eye(count)[min(choice, count - 1)].expand(*x.shape[:2], count)

    width = LayerWidth(candidates.groups[min(choice, len(candidates.groups) - 1)], candidates.neurons[choice])
    with torch.no_grad():
        with routed(model, architecture, candidates, decide):
            got = model(IDS).logits
        with narrowed(model, architecture, Budget("constant", (width,) * 2)):
            torch.testing.assert_close(got, model(IDS).logits, rtol=1e-4, atol=1e-4)


def test_the_widest_choice_is_the_parent_and_nothing_stays_behind(
    model: Any, architecture: Architecture, candidates: Candidates
) -> None:
    with torch.no_grad():
        before = model(IDS).logits
        widest = {"attention": len(candidates.groups), "ffn": len(candidates.neurons)}
        with routed(model, architecture, candidates, lambda i, part, x: torch.eye(widest[part])[-1]):
            assert torch.equal(model(IDS).logits, before)
        with pytest.raises(RuntimeError), routed(model, architecture, candidates, lambda *_: 1 / 0):  # type: ignore[arg-type, return-value]
            raise RuntimeError
        assert torch.equal(model(IDS).logits, before)


def test_dynamic_routing_equals_a_computation_by_hand_token_by_token(
    model: Any, architecture: Architecture, candidates: Candidates
) -> None:
    trained = routers("dynamic", architecture, candidates)
    with torch.no_grad():
        for module in trained.modules():
            if hasattr(module, "input"):
                module.input.mul_(5)  # so that tokens differ in what they choose
    plain = trained.numpy()
    seen = set()

    def width(layer: int, part: str, x: torch.Tensor) -> int:
        choice = int(plain.logits(f"layers.{layer}.{part}", 0.75, x.numpy()).argmax())
        seen.add((part, choice))
        if part == "attention":
            return rows(architecture, "query", LayerWidth(candidates.groups[choice], 0))
        return candidates.neurons[choice]

    with torch.no_grad():
        logits = trained.of(0.75)
        with routed(model, architecture, candidates, lambda i, part, x: one_hot(logits(i, part, x))):
            got = model(IDS).logits

        hidden = model.model.embed_tokens(IDS)
        position = torch.arange(IDS.shape[1])[None]
        rope = model.model.rotary_emb(hidden, position)
        for i, (layer, block) in enumerate(zip(model.model.layers, blocks(model), strict=True)):
            heads: list[torch.Tensor] = []
            keep = block.attention_output.register_forward_pre_hook(lambda _, inputs, h=heads: h.append(inputs[0]))
            x = block.attention_norm(hidden)
            layer.self_attn(x, position_embeddings=rope, attention_mask=None)  # keys and values of all groups
            keep.remove()
            hidden = hidden.clone()
            for b in range(2):
                for s in range(IDS.shape[1]):
                    n = width(i, "attention", x[b, s])
                    hidden[b, s] += linear(heads[0][b, s, :n], block.attention_output.weight[:, :n])
                    y = block.ffn_norm(hidden[b, s])
                    n = width(i, "ffn", y)
                    gate, up = layer.mlp.gate_proj.weight[:n], layer.mlp.up_proj.weight[:n]
                    neurons = silu(linear(y, gate)) * linear(y, up)
                    hidden[b, s] += linear(neurons, block.ffn_output.weight[:, :n])
        expected = model.lm_head(model.model.norm(hidden))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert len({c for part, c in seen if part == "ffn"}) > 1 and len({c for part, c in seen if part == "attention"}) > 1
