"""The analytic latency model against numbers worked out by hand, and how it behaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flextron_export.elastic.architecture import Architecture
from flextron_export.elastic.widths import Budget, Candidates, LayerWidth
from flextron_export.errors import InputError
from flextron_export.targets.device_description import device_description, device_ids
from flextron_export.training.analytic_latency import (
    SHAPES,
    analytic_latency,
    analytic_latency_of_shape,
    scaled_candidates,
    shape_architecture,
)

SMALL = Architecture.from_config(
    {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 10,
    }
)
CANDIDATES = Candidates((1, 2), (16, 32))
# 1 GB/s and 0.001 TFLOPS, so that a byte is a nanosecond and an operation too; a launch takes a microsecond.
SLOW = replace(
    device_description("h100"), bandwidth_gb_s=1.0, tflops={"fp32": 0.001, "fp16": 0.001}, launch_us=1.0, name="slow"
)


def test_decoding_equals_the_sum_worked_out_by_hand() -> None:
    # head_dim 2. At 1 group: query 4, key 2. Bytes are larger than operations everywhere at one row:
    # a matrix of n weights costs 2 n bytes, 2 (inputs + outputs) bytes of activations and 2 n operations.
    model = analytic_latency(SMALL, CANDIDATES, SLOW, tokens=100)
    q = o = 2 * 32 + 2 * 12
    k = v = 2 * 16 + 2 * 10
    rotary_and_cache = 2 * 2 * (4 + 2 * 2)
    core = max(2 * (2 * 4 + 2 * 2 * 100), 4 * 4 * 100)
    assert core == 4 * 4 * 100  # there the operations are more
    assert model.groups[0] == pytest.approx((q + k + v + o + rotary_and_cache + core + 6 * 1000) * 1e-6)
    assert model.neurons[0] == pytest.approx((3 * (2 * 128 + 2 * 24) + 2 * 3 * 16 + 4 * 1000) * 1e-6)
    norm = 2 * 2 * 8 + 2 * 8 + 1000
    embedding = 2 * 8 + 2 * 8 + 1000
    head = 2 * 80 + 2 * 18 + 1000
    assert model.intercept == pytest.approx((7 * norm + embedding + head) * 1e-6)
    assert (model.phase, model.tokens, model.candidates, model.layers) == ("decode", 100, CANDIDATES, 3)


def test_prefill_counts_operations_of_every_row_and_half_the_scores() -> None:
    model = analytic_latency(SMALL, CANDIDATES, SLOW, phase="prefill", tokens=10)
    query, key = 8, 4  # at 2 groups
    matrices = 2 * 10 * 8 * (2 * query + 2 * key)  # operations; bytes are fewer
    rotary_and_cache = 2 * 2 * 10 * (query + 2 * key)
    core = max(2 * (2 * 10 * query + 2 * key * 10), 4 * 10 * query * 5.5)
    assert model.groups[1] == pytest.approx((matrices + rotary_and_cache + core + 6 * 1000) * 1e-6)


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize("id", device_ids())
def test_every_device_gives_a_monotone_table_of_a_7b_model(id: str, phase: str) -> None:
    shape = shape_architecture("7b")
    model = analytic_latency(shape, Candidates.default(shape), device_description(id), phase=phase)
    assert list(model.groups) == sorted(set(model.groups))
    assert list(model.neurons) == sorted(set(model.neurons))


def test_a_7b_decode_step_takes_what_reading_its_weights_takes() -> None:
    shape, orin = shape_architecture("7b"), device_description("jetson-agx-orin")
    model = analytic_latency(shape, Candidates.default(shape), orin, tokens=1)
    weights = 2 * (32 * shape.layer_parameters(32, 11008) + 32000 * 4096)
    assert model.full(32) == pytest.approx(weights / 204.8e9 * 1e3, rel=0.06)  # the rest is launches
    int4 = analytic_latency(shape, Candidates.default(shape), orin, tokens=1, dtype="int4")
    assert int4.full(32) < 0.3 * model.full(32)


def test_a_long_context_makes_attention_dearer_and_nothing_else() -> None:
    shape, device = shape_architecture("7b"), device_description("rtx-4090")
    short, long = (analytic_latency(shape, Candidates.default(shape), device, tokens=n) for n in (128, 8192))
    assert long.groups[-1] > 1.5 * short.groups[-1]
    assert long.neurons == short.neurons


def test_candidates_keep_their_fractions_on_another_shape() -> None:
    toy = Candidates((1, 2, 3, 4), (96, 192, 288, 384))
    assert scaled_candidates(toy, shape_architecture("7b")) == Candidates((8, 16, 24, 32), (2752, 5504, 8256, 11008))


def test_a_toy_that_stands_for_a_7b_model_costs_what_that_costs() -> None:
    toy, device = Candidates((1, 2, 3, 4), (96, 192, 288, 384)), device_description("jetson-orin-nx")
    model = analytic_latency_of_shape("7b", toy, 6, device)
    shape = shape_architecture("7b")
    large = analytic_latency(shape, scaled_candidates(toy, shape), device)
    assert model.full(6) == pytest.approx(large.full(32))
    assert model.predict(Budget("half", (LayerWidth(2, 192),) * 6), toy) == pytest.approx(
        large.predict(Budget("half", (LayerWidth(16, 5504),) * 32), scaled_candidates(toy, shape))
    )
    assert model.source["shape"] == "7b"


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_an_architecture(shape: str) -> None:
    assert shape_architecture(shape).num_layers > 1


def test_bad_arguments_are_refused_all_at_once() -> None:
    with pytest.raises(InputError, match=r"phase is 'idle'.*tokens is 0.*H100.* has no fp4|dtype is 'fp4'"):
        analytic_latency(SMALL, CANDIDATES, device_description("h100"), phase="idle", tokens=0, dtype="fp4")
    with pytest.raises(InputError, match="GeForce RTX 3090 has no fp8, only fp32"):
        analytic_latency(SMALL, CANDIDATES, device_description("rtx-3090"), dtype="fp8")
    with pytest.raises(InputError, match=r"no shape '9b'(.|\n)*1b, 7b, 8b"):
        shape_architecture("9b")
