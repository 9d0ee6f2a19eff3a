"""Widths, budgets and candidates: what is made by default, what fits a model, and what the two formats hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flextron_export.elastic.architecture import Architecture
from flextron_export.elastic.rope import Rope
from flextron_export.elastic.tensors import rows, tensor_specs
from flextron_export.elastic.widths import Budget, Candidates, LayerWidth, check_budgets, full_budget
from flextron_export.errors import InputError

MODEL = Architecture("llama", 64, 2, 8, 4, 16, 128, 260, 512, 1e-5, True, False, False, Rope())
CANDIDATES = Candidates((2, 3, 4), (32, 64, 128))


def model(**changes: Any) -> Architecture:
    return dataclasses.replace(MODEL, **changes)


def budget(name: str, *layers: tuple[int, int]) -> Budget:
    return Budget(name, tuple(LayerWidth(*pair) for pair in layers))


def test_default_candidates_are_quarters_with_at_least_four_query_heads() -> None:
    assert Candidates.default(MODEL) == Candidates((2, 3, 4), (32, 64, 96, 128))
    llama2_7b = model(hidden_size=4096, num_heads=32, num_kv_heads=32, head_dim=128, intermediate_size=11008)
    assert Candidates.default(llama2_7b) == Candidates((8, 16, 24, 32), (2816, 5632, 8192, 11008))


@given(
    kv_heads=st.integers(1, 64), per_group=st.integers(1, 16), neurons=st.integers(1, 20_000), layers=st.integers(1, 4)
)
def test_defaults_fit_every_model(kv_heads: int, per_group: int, neurons: int, layers: int) -> None:
    architecture = model(
        num_heads=kv_heads * per_group, num_kv_heads=kv_heads, intermediate_size=neurons, num_layers=layers
    )
    candidates = Candidates.default(architecture)
    candidates.validate(architecture)
    budgets = candidates.uniform_budgets(architecture)
    check_budgets(budgets, candidates, architecture)
    sizes = [b.parameters(architecture) for b in budgets]
    assert sizes == sorted(set(sizes), reverse=True)
    assert budgets[0] == full_budget(architecture)


def test_budgets_are_named_after_the_parameters_they_keep() -> None:
    budgets = Candidates((2, 4), (64, 128)).uniform_budgets(MODEL)
    assert [b.name for b in budgets] == ["full", "p50"]


def test_steps_too_close_to_have_names_of_their_own_are_left_out() -> None:
    budgets = Candidates((4,), tuple(range(1, 129))).uniform_budgets(MODEL)
    names = [b.name for b in budgets]
    assert len(names) == len(set(names)) < 128


@pytest.mark.parametrize(
    ("groups", "neurons", "named"),
    [
        ((), (128,), "groups"),
        ((4, 2), (128,), "not positive and ascending"),
        ((2, 2, 4), (128,), "not positive and ascending"),
        ((0, 4), (128,), "not positive and ascending"),
        ((2, 3), (128,), "the last candidate of groups is 3, but the full width is 4"),
        ((2, 4), (64,), "the last candidate of neurons is 64"),
        ((1, 4), (128,), "keeps 2 query heads, at least 4"),
    ],
)
def test_candidates_that_do_not_fit_are_named(groups: tuple[int, ...], neurons: tuple[int, ...], named: str) -> None:
    with pytest.raises(InputError) as caught:
        Candidates(groups, neurons).validate(MODEL)
    assert named in str(caught.value)


def test_a_model_of_few_heads_may_keep_them_all() -> None:
    small = model(num_heads=2, num_kv_heads=2)
    Candidates((2,), (128,)).validate(small)


@pytest.mark.parametrize(
    ("budgets", "named"),
    [
        ([], "there is no budget"),
        ([budget("a", (4, 128), (4, 128)), budget("a", (2, 32), (2, 32))], "'a' is used twice"),
        ([budget("", (4, 128), (4, 128))], "'' is empty"),
        ([budget("../up", (4, 128), (4, 128))], "'../up'"),
        ([budget("a b", (4, 128), (4, 128))], "'a b'"),
        ([budget("a", (4, 128))], "1 layers, the model has 2"),
        ([budget("a", (4, 128), (1, 128))], "layer 1: 1 groups, 128 neurons"),
        ([budget("a", (4, 127), (4, 128))], "layer 0: 4 groups, 127 neurons"),
    ],
)
def test_budgets_that_do_not_fit_are_named(budgets: list[Budget], named: str) -> None:
    with pytest.raises(InputError) as caught:
        check_budgets(budgets, CANDIDATES, MODEL)
    assert named in str(caught.value)


def test_every_bad_budget_is_named_at_once() -> None:
    with pytest.raises(InputError, match=r"'a'.*'b'"):
        check_budgets([budget("a", (4, 128)), budget("b", (4, 1), (4, 1))], CANDIDATES, MODEL)


def test_json_round_trip() -> None:
    measured = dataclasses.replace(budget("p50", (2, 32), (3, 128)), validation_loss=2.5)
    for value in (budget("full", (4, 128), (4, 128)), measured):
        assert Budget.from_json(value.to_json()) == value
    assert Candidates.from_json(CANDIDATES.to_json()) == CANDIDATES


@pytest.mark.parametrize(
    "change",
    [
        {"name": 5},
        {"name": None},
        {"layers": "22"},
        {"layers": [["2", "32"]]},
        {"layers": [[2.0, 32]]},
        {"layers": [[2]]},
        {"layers": [2, 32]},
        {"layers": None},
        {"validation_loss": "2"},
        {"validation_loss": float("nan")},
    ],
    ids=str,
)
def test_a_budget_that_is_none_is_no_budget(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Budget.from_json({**budget("a", (2, 32)).to_json(), **change})


@pytest.mark.parametrize("kind", ["query", "key", "neurons"])
def test_rows_of_a_narrower_width_come_first(kind: str) -> None:
    assert [rows(MODEL, kind, LayerWidth(n, n)) for n in (1, 2)] == {
        "query": [32, 64],
        "key": [16, 32],
        "neurons": [1, 2],
    }[kind]


def test_every_elastic_matrix_has_its_elastic_dimension_first() -> None:
    biased = model(attention_bias=True, mlp_bias=True, tied=False)
    shapes = {s.name: s.active(biased, budget("a", (4, 128), (3, 32)).layers) for s in tensor_specs(biased)}
    assert {name[9:]: shape for name, shape in shapes.items() if name.startswith("layers.1.")} == {
        "attention_norm": (64,),
        "q": (96, 64),
        "q_bias": (96,),
        "k": (48, 64),
        "k_bias": (48,),
        "v": (48, 64),
        "v_bias": (48,),
        "o": (96, 64),
        "o_bias": (64,),
        "ffn_norm": (64,),
        "gate": (32, 64),
        "gate_bias": (32,),
        "up": (32, 64),
        "up_bias": (32,),
        "down": (32, 64),
        "down_bias": (64,),
    }
    assert (shapes["embedding"], shapes["norm"], shapes["lm_head"]) == ((260, 64), (64,), (260, 64))
