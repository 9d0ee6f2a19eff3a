"""A sub-network is the first rows of the full model: sliced equals masked, and gradients reach those rows only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.model import masked, narrowed
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import Budget, LayerWidth, full_budget
from flextron_export.training.tiny import tiny_model

MIXED = Budget("mixed", (LayerWidth(2, 96), LayerWidth(3, 32)))


def load(directory: Path) -> tuple[Any, Architecture]:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(directory).eval(), Architecture.from_config(read_config(directory))


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "biases"])
@pytest.mark.parametrize("kv_heads", [8, 4], ids=["multi-head", "grouped"])
def test_sliced_equals_masked(tmp_path: Path, kv_heads: int, bias: bool) -> None:
    import torch

    model, architecture = load(tiny_model(tmp_path / "model", kv_heads=kv_heads, bias=bias))
    budget = Budget("mixed", (LayerWidth(kv_heads // 2, 96), LayerWidth(kv_heads - 1, 32)))
    ids = torch.arange(1, 33).reshape(2, 16)
    with torch.no_grad():
        with narrowed(model, architecture, budget):
            sliced = model(ids).logits
        with masked(model, architecture, budget):
            zeroed = model(ids).logits
        full = model(ids).logits
    torch.testing.assert_close(sliced, zeroed, rtol=1e-4, atol=1e-4)
    assert (sliced - full).abs().max() > 1e-2, "the sub-network should not be the full model"


def test_the_full_budget_changes_nothing_and_both_undo_themselves(tiny_model_dir: Path) -> None:
    import torch

    model, architecture = load(tiny_model_dir)
    ids = torch.arange(1, 17)[None]
    with torch.no_grad():
        before = model(ids).logits
        with narrowed(model, architecture, full_budget(architecture)):
            assert torch.equal(model(ids).logits, before)
        for context in (narrowed, masked):
            with pytest.raises(RuntimeError), context(model, architecture, MIXED):
                raise RuntimeError
            assert torch.equal(model(ids).logits, before)


def test_gradients_reach_exactly_the_active_rows(tiny_model_dir: Path) -> None:
    import torch

    model, architecture = load(tiny_model_dir)
    with narrowed(model, architecture, MIXED):
        model(torch.arange(1, 33).reshape(2, 16)).logits.square().mean().backward()
    gradients = dict(model.named_parameters())
    for spec in tensor_specs(architecture):
        gradient = gradients[spec.source].grad
        gradient = gradient.T if spec.transposed else gradient
        active = spec.active(architecture, MIXED.layers)[0]
        assert gradient[:active].abs().sum() > 0, spec.name
        assert not gradient[active:].any(), spec.name
        if spec.rows:
            assert gradient[:active].flatten(1).any(1).all(), f"{spec.name} has an active row without gradient"


def test_a_narrower_budget_uses_a_prefix_of_the_wider(tiny_model_dir: Path) -> None:
    architecture = Architecture.from_config(read_config(tiny_model_dir))
    for spec in tensor_specs(architecture):
        narrow = spec.active(architecture, MIXED.layers)
        wide = spec.active(architecture, full_budget(architecture).layers)
        assert wide == spec.shape
        assert narrow[0] <= wide[0] and narrow[1:] == wide[1:]
