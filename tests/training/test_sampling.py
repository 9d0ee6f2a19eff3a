"""Which sub-networks a step trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.widths import Budget, Candidates, LayerWidth, full_budget
from flextron_export.errors import InputError
from flextron_export.training.sampling import SAMPLINGS, make_sampler


@pytest.fixture(scope="module")
def architecture(tiny_model_dir: Path) -> Architecture:
    return Architecture.from_config(read_config(tiny_model_dir))


@pytest.fixture(scope="module")
def candidates(architecture: Architecture) -> Candidates:
    return Candidates.default(architecture)


@pytest.fixture(scope="module")
def routed(architecture: Architecture) -> list[Budget]:
    return [Budget("fast", (LayerWidth(4, 32), LayerWidth(2, 64))), Budget("faster", (LayerWidth(2, 32),) * 2)]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_every_scheme_trains_the_full_model_and_two_others_of_candidate_widths(
    name: str, architecture: Architecture, candidates: Candidates, routed: list[Budget]
) -> None:
    sampler = make_sampler(name, architecture, candidates, routed if name == "router" else None)
    random = np.random.default_rng(0)
    for _ in range(50):
        budgets = sampler(random)
        assert budgets[0] == full_budget(architecture) and len(budgets) == 3
        assert len({b.name for b in budgets}) == 3, "losses are reported by name"
        for width in (w for b in budgets for w in b.layers):
            assert width.groups in candidates.groups and width.neurons in candidates.neurons


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_same_generator_draws_the_same(
    name: str, architecture: Architecture, candidates: Candidates, routed: list[Budget]
) -> None:
    sampler = make_sampler(name, architecture, candidates, routed if name == "router" else None)
    one, two, other = (np.random.default_rng(seed) for seed in (1, 1, 2))
    first, again, else_ = ([sampler(r) for _ in range(20)] for r in (one, two, other))
    assert first == again != else_


def test_uniform_has_one_width_in_all_layers_and_the_smallest(
    architecture: Architecture, candidates: Candidates
) -> None:
    sampler, random = make_sampler("uniform", architecture, candidates), np.random.default_rng(0)
    drawn = [sampler(random) for _ in range(300)]
    assert all(len(set(uniform.layers)) == 1 for _, _, uniform in drawn)
    assert {smallest.layers for _, smallest, _ in drawn} == {(LayerWidth(2, 32),) * 2}
    assert {uniform.layers[0] for _, _, uniform in drawn} == {
        LayerWidth(g, n) for g in candidates.groups for n in candidates.neurons
    }


def test_random_draws_every_layer_of_both_on_its_own(architecture: Architecture, candidates: Candidates) -> None:
    sampler, random = make_sampler("random", architecture, candidates), np.random.default_rng(0)
    drawn = [sampler(random) for _ in range(300)]
    assert {b.layers for _, *others in drawn for b in others} >= {
        (LayerWidth(g, n), LayerWidth(h, m)) for g, h in ((2, 4), (4, 2)) for n, m in ((32, 128), (128, 32))
    }
    assert any(one.layers != two.layers for _, one, two in drawn)


def test_router_stays_within_one_candidate_of_the_given_budgets(
    architecture: Architecture, candidates: Candidates, routed: list[Budget]
) -> None:
    sampler, random = make_sampler("router", architecture, candidates, routed), np.random.default_rng(0)

    def moves(one: Budget, other: Budget) -> list[int]:
        return [
            abs(candidates.groups.index(a.groups) - candidates.groups.index(b.groups))
            + abs(candidates.neurons.index(a.neurons) - candidates.neurons.index(b.neurons))
            for a, b in zip(one.layers, other.layers, strict=True)
        ]

    drawn = [b for _ in range(200) for b in sampler(random)[1:]]
    nearest = [min((moves(b, r) for r in routed), key=sum) for b in drawn]
    assert all(max(m) <= 1 for m in nearest)
    assert {sum(m) for m in nearest} == {0, 1, 2}, "exact choices, and such with one or both layers moved"
    assert any(b.layers == r.layers for r in routed for b in drawn)


def test_schemes_that_do_not_exist_or_do_not_fit_are_refused(
    architecture: Architecture, candidates: Candidates, routed: list[Budget]
) -> None:
    with pytest.raises(InputError, match=r"'x' is not known(.|\n)*sandwich, uniform, random, router"):
        make_sampler("x", architecture, candidates)
    with pytest.raises(InputError, match="needs budgets to stay near"):
        make_sampler("router", architecture, candidates)
    with pytest.raises(InputError, match="'uniform' stays near no budgets"):
        make_sampler("uniform", architecture, candidates, routed)
    with pytest.raises(InputError, match="5 groups, 32 neurons are not among the candidates"):
        make_sampler("router", architecture, candidates, [Budget("wide", (LayerWidth(5, 32),) * 2)])
