"""What holds for the models of every family: read as transformers reads them, sorted and narrowed without a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.checkpoint import ElasticCheckpoint, ModelWeights
from flextron_export.elastic.families import FAMILIES
from flextron_export.elastic.model import load_model, masked, narrowed
from flextron_export.elastic.modules import backbone, blocks, output_weight, projections
from flextron_export.elastic.permutation import permute_
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import MINIMUM_QUERY_HEADS, Budget, Candidates, LayerWidth, full_budget
from flextron_export.errors import UnsupportedModelError
from flextron_export.training.elastify import elastify
from flextron_export.training.environment import training_attention
from flextron_export.training.importance import measure_importance
from flextron_export.training.tiny import tiny_model
from tests.elastic_models import MODELS

IDS = np.arange(1, 41).reshape(2, 20)


@pytest.fixture(scope="module", params=MODELS, ids=lambda kind: kind.replace(" ", "-").replace(",", ""))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "model", **MODELS[request.param])


@pytest.fixture
def architecture(directory: Path) -> Architecture:
    return Architecture.from_config(read_config(directory))


@pytest.fixture
def model(directory: Path) -> Any:
    return load_model(directory)


def mixed(a: Architecture) -> Budget:
    """Other widths in each layer."""
    return Budget("mixed", (LayerWidth(a.num_kv_heads // 2, 96), LayerWidth(a.num_kv_heads - 1, 32)))


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits


def test_every_weight_of_the_model_is_a_tensor_and_every_tensor_is_a_weight(
    directory: Path, model: Any, architecture: Architecture
) -> None:
    """The parts of fused weights cover them, without a gap or an overlap."""
    weights, specs = ModelWeights(directory), tensor_specs(architecture)
    weights.check(specs)
    seen = {name: np.zeros(p.shape, int) for name, p in model.named_parameters()}
    for spec in specs:
        part = spec.take(seen[spec.source])
        assert part.shape == spec.shape
        part += 1
    assert all((count == 1).all() for count in seen.values())


def test_parameters_are_those_of_the_torch_model(model: Any, architecture: Architecture) -> None:
    embeddings = {"embedding", "position_embedding", "lm_head"}
    outside = sum(np.prod(s.shape) for s in tensor_specs(architecture) if s.name in embeddings)
    whole = sum(p.numel() for p in model.parameters())
    assert full_budget(architecture).parameters(architecture) == whole - outside
    narrow, specs = mixed(architecture), tensor_specs(architecture)
    active = sum(np.prod(s.active(architecture, narrow.layers)) for s in specs if s.name not in embeddings)
    assert narrow.parameters(architecture) == active


def test_what_transformers_writes_for_absent_options_is_what_they_mean(architecture: Architecture) -> None:
    from transformers import AutoConfig

    family = FAMILIES[architecture.family]
    sizes = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "vocab_size")
    short = {family.names[s]: getattr(architecture, s) for s in sizes} | {"model_type": family.model_type}
    if family.absent.get("num_kv_heads"):  # else 8 heads would not be a multiple of the default
        short[family.names["num_heads"]] = family.absent["num_kv_heads"]
    whole = AutoConfig.for_model(**short).to_dict()
    assert Architecture.from_config(short) == Architecture.from_config({**whole, "architectures": [family.model]})


def test_json_round_trip(architecture: Architecture) -> None:
    assert Architecture.from_json(architecture.to_json()) == architecture


def test_a_permuted_model_computes_the_same(model: Any, architecture: Architecture) -> None:
    import torch

    draw, layers = np.random.default_rng(1), range(architecture.num_layers)
    groups = np.stack([draw.permutation(architecture.num_kv_heads) for _ in layers])
    neurons = np.stack([draw.permutation(architecture.intermediate_size) for _ in layers])
    before = logits(model)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    permute_(model, architecture, groups, neurons)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    for spec in tensor_specs(architecture):  # heads move whole, and only what is elastic moves
        new, old = spec.take(dict(model.named_parameters())[spec.source]), spec.take(weights[spec.source])
        order, size = (neurons, 1) if spec.rows == "neurons" else (groups, len(old) // architecture.num_kv_heads)
        if spec.rows is None or spec.layer is None:
            assert torch.equal(new, old), spec.name
        else:
            moved = old.unflatten(0, (-1, size))[torch.from_numpy(order[spec.layer])].flatten(0, 1)
            assert torch.equal(new, moved), spec.name


def test_sliced_equals_masked(model: Any, architecture: Architecture) -> None:
    import torch

    with narrowed(model, architecture, mixed(architecture)):
        sliced = logits(model)
    with masked(model, architecture, mixed(architecture)):
        zeroed = logits(model)
    torch.testing.assert_close(sliced, zeroed, rtol=1e-4, atol=1e-4)
    assert (sliced - logits(model)).abs().max() > 1e-2, "the sub-network should not be the full model"


def test_the_full_budget_is_the_parent_and_everything_undoes_itself(model: Any, architecture: Architecture) -> None:
    import torch

    before = logits(model)
    with narrowed(model, architecture, full_budget(architecture)):
        assert torch.equal(logits(model), before)
    for context in (narrowed, masked):
        with pytest.raises(RuntimeError), context(model, architecture, mixed(architecture)):
            raise RuntimeError
        assert torch.equal(logits(model), before)


def test_gradients_reach_exactly_the_active_rows(model: Any, architecture: Architecture) -> None:
    import torch

    budget = mixed(architecture)
    with narrowed(model, architecture, budget):
        model(torch.from_numpy(IDS)).logits.square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for spec in tensor_specs(architecture):
        gradient = spec.take(gradients[spec.source])
        active = spec.active(architecture, budget.layers)[0]
        assert not gradient[active:].any(), spec.name
        if spec.name.endswith("k_bias") and architecture.rope is None:
            continue  # it adds the same to every score of a token, so the softmax takes it away
        assert gradient[:active].abs().sum() > 0, spec.name
        if spec.rows and architecture.activation != "relu":  # whose neurons may be silent
            assert gradient[:active].reshape(active, -1).any(1).all(), f"{spec.name} has an active row without gradient"


def test_budgets_are_nested(architecture: Architecture) -> None:
    candidates = Candidates.default(architecture)
    assert candidates.groups[0] * architecture.heads_per_group >= MINIMUM_QUERY_HEADS
    wide = full_budget(architecture)
    for narrow in candidates.uniform_budgets(architecture)[1:]:
        for spec in tensor_specs(architecture):
            smaller, larger = spec.active(architecture, narrow.layers), spec.active(architecture, wide.layers)
            assert smaller[0] <= larger[0] and smaller[1:] == larger[1:]
        wide = narrow


def test_importance_is_what_is_lost_without_a_unit(model: Any, architecture: Architecture) -> None:
    """Root mean square of what the first group and the first neuron of layer 0 add to the residual stream."""
    import torch

    importance = measure_importance(model, architecture, IDS)
    block = blocks(model)[0]
    for module, unit, found in (
        (block.attention_output, architecture.heads_per_group * architecture.head_dim, importance.groups[0, 0]),
        (block.ffn_output, 1, importance.neurons[0, 0]),
    ):
        inputs: list[Any] = []
        handle = module.register_forward_pre_hook(lambda _, x, inputs=inputs: inputs.append(x[0]))
        logits(model)
        handle.remove()
        with torch.no_grad():
            added = inputs[0][..., :unit] @ output_weight(module)[:, :unit].T
        assert found == pytest.approx(added.square().sum(-1).mean().sqrt().item(), rel=1e-4)


def test_attention_while_training_is_that_of_the_model(model: Any) -> None:
    import torch

    expected = logits(model)
    with training_attention(model, IDS.shape[1]):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)


def test_projections_and_the_backbone_are_found(model: Any, architecture: Architecture) -> None:
    import torch

    found = [p for p in projections(model, architecture) if p.layer == 1]
    assert sorted(p.output for p in found)[-2:] == [True, True]
    assert {kind for p in found for kind, _, _ in p.parts} == {"query", "key", "neurons"}
    for p in found:
        assert p.module.weight.shape[p.dimension] == sum(count for _, _, count in p.parts)
    hidden = backbone(model)(torch.from_numpy(IDS)).last_hidden_state
    assert hidden.shape == (*IDS.shape, architecture.hidden_size)


def test_transformers_loads_the_elastic_checkpoint_and_computes_what_the_parent_did(
    directory: Path, model: Any, tiny_text: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    checkpoint = elastify(directory, [tiny_text], tmp_path / "out", tokens=0, length=32, progress=False)
    again = AutoModelForCausalLM.from_pretrained(checkpoint.path).eval()
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-4, atol=1e-4)
    assert ElasticCheckpoint.open(checkpoint.path).architecture.to_json() == checkpoint.architecture.to_json()
    moved = [n for n, p in again.named_parameters() if not torch.equal(p, dict(model.named_parameters())[n])]
    assert moved, "sorting should have moved something"


def test_gpt2_as_its_authors_published_it_has_no_prefix(tmp_path: Path, tiny_text: Path) -> None:
    """The checkpoint on the hub was written without the LM head: `h.0.attn...` instead of `transformer.h.0.attn...`."""
    directory = tiny_model(tmp_path / "model", family="gpt2")
    whole = load_model(directory)
    backbone(whole).save_pretrained(directory)
    (directory / "config.json").write_text(
        (directory / "config.json").read_text().replace('"GPT2Model"', '"GPT2LMHeadModel"')
    )
    assert "wte.weight" in ModelWeights(directory).files[0].tensors
    checkpoint = elastify(directory, [tiny_text], tmp_path / "out", tokens=0, length=32, progress=False)
    np.testing.assert_allclose(logits(load_model(checkpoint.path)), logits(whole), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("mistral", {"sliding_window": 0}, "sliding_window 0"),
        ("mistral", {"sliding_window": "big"}, "sliding_window 'big'"),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ("qwen2", {"layer_types": ["full_attention"] * 3}, "3 entries for 2 layers"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "sliding_window None"),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": "1"}, "max_window_layers '1'"),
        ("qwen3", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ("qwen3", {"attention_bias": 1}, "attention_bias"),
        ("qwen3", {"quantization_config": {"bits": 4}}, "already quantised"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("gpt2", {"activation_function": "tanh"}, "activation 'tanh'"),
        ("gpt2", {"n_embd": 0}, "n_embd is 0"),
        ("gpt2", {"n_head": 5}, "not a multiple of 5 heads"),
        ("gpt2", {"layer_norm_epsilon": -1}, "layer_norm_epsilon is -1"),
    ],
)
def test_what_a_family_does_not_do_here_is_refused_by_name(
    tmp_path: Path, family: str, changes: dict[str, Any], named: str
) -> None:
    config = {**read_config(tiny_model(tmp_path / "model", family=family, sliding_window=4)), **changes}
    with pytest.raises(UnsupportedModelError) as caught:
        Architecture.from_config(config)
    assert named in str(caught.value)
