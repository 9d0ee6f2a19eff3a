"""Configs of Llama models are read as transformers reads them; what is not supported is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.rope import Rope
from flextron_export.elastic.widths import full_budget
from flextron_export.errors import CheckpointError, UnsupportedModelError
from tests.elastic_models import LLAMA3

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 260,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}


def read(**changes: Any) -> Architecture:
    return Architecture.from_config({**CONFIG, **changes})


def old_style(rope: dict[str, Any]) -> dict[str, Any]:
    """The same rope as transformers 4 writes it."""
    rope = dict(rope)
    theta = rope.pop("rope_theta")
    return {**{k: v for k, v in CONFIG.items() if k != "rope_parameters"}, "rope_theta": theta, "rope_scaling": rope}


def test_a_config_of_transformers_5() -> None:
    assert read() == Architecture(
        family="llama",
        hidden_size=64,
        num_layers=2,
        num_heads=8,
        num_kv_heads=4,
        head_dim=8,
        intermediate_size=128,
        vocab_size=260,
        max_positions=512,
        norm_eps=1e-5,
        tied=True,
        attention_bias=False,
        mlp_bias=False,
        rope=Rope(500000.0),
    )


@pytest.mark.parametrize("rope", [CONFIG["rope_parameters"], LINEAR, LLAMA3, YARN], ids=str)
def test_a_config_of_transformers_4_means_the_same(rope: dict[str, Any]) -> None:
    assert Architecture.from_config(old_style(rope)) == read(rope_parameters=rope)


def test_the_oldest_configs_call_the_rope_type_type() -> None:
    rope = {"rope_theta": 10000.0, "type": "linear", "factor": 4.0}
    assert Architecture.from_config(old_style(rope)) == read(rope_parameters=LINEAR)


def test_absent_options_have_the_defaults_of_transformers() -> None:
    from transformers import LlamaConfig

    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    short = {k: CONFIG[k] for k in ("architectures", "model_type", *sizes)}
    assert Architecture.from_config(short) == Architecture.from_config(
        {**LlamaConfig(**short).to_dict(), "architectures": ["LlamaForCausalLM"]}
    )
    assert Architecture.from_config(short).num_kv_heads == 8


def test_the_query_may_be_wider_than_the_hidden_size() -> None:
    wide = read(head_dim=32)
    assert (wide.head_dim, wide.heads_per_group) == (32, 2)
    assert wide.layer_parameters(1, 1) == 64 * (2 * 64 + 2 * 32 + 3 + 2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_those_of_the_torch_model(bias: bool, tied: bool) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {**CONFIG, "attention_bias": bias, "mlp_bias": bias, "tie_word_embeddings": tied, "head_dim": 16}
    architecture = Architecture.from_config(config)
    embeddings = architecture.vocab_size * architecture.hidden_size * (1 if tied else 2)
    whole = sum(p.numel() for p in LlamaForCausalLM(LlamaConfig(**config)).parameters())
    assert full_budget(architecture).parameters(architecture) == whole - embeddings


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 500000.0},
        LINEAR,
        LLAMA3,
        {**LLAMA3, "rope_theta": 500000.0, "factor": 32.0, "original_max_position_embeddings": 8192},
        YARN,
        {**YARN, "rope_theta": 1e6, "original_max_position_embeddings": 32768},
        {**YARN, "beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 1.25, "truncate": False},
        {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
        {k: v for k, v in YARN.items() if k != "original_max_position_embeddings"},
        {**YARN, "factor": 0.5, "original_max_position_embeddings": 4},
    ],
    ids=["default", "linear", "llama3", "llama3.2", "yarn", "qwen", "options", "mscale", "whole", "degenerate"],
)
def test_inverse_frequencies_are_those_of_transformers(rope: dict[str, Any], head_dim: int) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    embedding = LlamaRotaryEmbedding(LlamaConfig(**{**CONFIG, "head_dim": head_dim, "rope_parameters": rope}))
    found = read(head_dim=head_dim, rope_parameters=rope).rope
    assert found is not None and found.scaling == pytest.approx(embedding.attention_scaling, rel=1e-12)
    assert (found.scaling == 1) == (rope["rope_type"] != "yarn" or rope["factor"] < 1)
    ours = found.inverse_frequencies(head_dim)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, embedding.inv_freq.numpy(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}, "Phi3ForCausalLM"),
        ({"model_type": "mistral"}, "LlamaForCausalLM (model_type 'mistral')"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": "LlamaForCausalLM"}, "'LlamaForCausalLM'"),
        ({"model_type": None, "architectures": None}, "model_type None"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "lacks a positive factor"),
        ({"rope_parameters": {**YARN, "rope_theta": 1.0}}, "rope_theta 1"),
        ({"rope_parameters": {**YARN, "attention_factor": -1.0}}, "attention_factor -1.0"),
        ({"rope_parameters": {**YARN, "beta_fast": 1.0, "beta_slow": 2.0}}, "beta_fast is below beta_slow"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}}, "'longrope'"),
        ({"rope_scaling": {"type": "su", "factor": 4.0}, "rope_parameters": None}, "'su'"),
        ({"rope_parameters": {"rope_type": ["default"]}}, "rope type"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ({"rope_parameters": "default"}, "rope_parameters = default"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ({"rope_parameters": {**LINEAR, "factor": 0}}, "factor"),
        ({"rope_parameters": {**LINEAR, "factor": "4"}}, "factor"),
        ({"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_parameters": {**LLAMA3, "original_max_position_embeddings": None}}, "original_max_position_embeddings"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "big"}}, "rope_theta"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor 0.25"),
        ({"head_dim": 9}, "head_dim 9 is not even"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"hidden_size": 66}, "hidden_size 66 is not a multiple of 8 heads"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": -8}, "num_attention_heads is -8"),
        ({"num_key_value_heads": 3}, "8 query heads are not a multiple of 3 KV heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"intermediate_size": [128, 256]}, "intermediate_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"max_position_embeddings": 1.5}, "max_position_embeddings"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"hidden_act": "mish"}, "activation 'mish'"),
        ({"hidden_act": ["silu"]}, "activation ['silu']"),
        ({"quantization_config": {"quant_method": "awq"}}, "already quantised"),
        ({"pretraining_tp": 2}, "pretraining_tp 2"),
        ({"sliding_window": 4096}, "sliding_window 4096"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read(**changes)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"pretraining_tp": 1},
        {"sliding_window": None},
        {"sliding_window": 4096, "use_sliding_window": False},
        {"partial_rotary_factor": 1.0},
        {"layer_types": ["full_attention", "full_attention"]},
        {"hidden_act": "silu", "attention_dropout": 0.1, "initializer_range": 0.02},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 1.0}},
    ],
    ids=str,
)
def test_options_that_change_nothing_are_accepted(changes: dict[str, Any]) -> None:
    changed, plain = read(**changes), read()
    np.testing.assert_array_equal(changed.rope.inverse_frequencies(8), plain.rope.inverse_frequencies(8))
    assert {**changed.to_json(), "rope": None} == {**plain.to_json(), "rope": None}


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read(
            hidden_act="mish",
            sliding_window=16,
            vocab_size=0,
            head_dim=7,
            num_key_value_heads=3,
            rope_parameters={"rope_type": "yarn"},
        )
    message = str(caught.value)
    assert all(name in message for name in ("mish", "sliding_window", "vocab_size", "head_dim 7", "3 KV heads", "yarn"))


@pytest.mark.parametrize("rope", [{"rope_type": "default"}, LINEAR, LLAMA3], ids=["default", "linear", "llama3"])
def test_json_round_trip(rope: dict[str, Any]) -> None:
    architecture = read(rope_parameters=rope, head_dim=16, attention_bias=True)
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


def test_an_architecture_without_new_features_is_written_as_before_there_were_any() -> None:
    old = {
        "family": "llama",
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 8,
        "num_kv_heads": 4,
        "head_dim": 8,
        "intermediate_size": 128,
        "vocab_size": 260,
        "max_positions": 512,
        "norm_eps": 1e-5,
        "tied": True,
        "attention_bias": False,
        "mlp_bias": False,
        "rope": {"theta": 500000.0, "type": "default", "parameters": {}},
    }
    assert read().to_json() == old
    assert Architecture.from_json(old) == read()


@pytest.mark.parametrize(
    "change",
    [
        {"num_kv_heads": 0},
        {"hidden_size": "64"},
        {"family": "mamba"},
        {"tied": None},
        {"norm_eps": -1.0},
        {"rope": {"theta": 0.0}},
        {"rope": None},
        {"family": "gpt2"},
        {"qk_norm": True},
        {"qk_norm": 1},
        {"norm": "batch"},
        {"activation": "mish"},
        {"windows": [4]},
        {"windows": [4, -1]},
        {"windows": [4, 4.0]},
        {"unheard_of": 1},
        {"rope": {"theta": 1e4, "type": "yarn", "parameters": {}}},
    ],
    ids=str,
)
def test_json_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Architecture.from_json({**read().to_json(), **change})


def test_a_directory_without_a_config_is_no_model(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent", Path("someone/some-model")):
        with pytest.raises(CheckpointError, match="is not a model directory"):
            read_config(directory)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"7", b'"text"'])
def test_a_damaged_config_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        read_config(tmp_path)
