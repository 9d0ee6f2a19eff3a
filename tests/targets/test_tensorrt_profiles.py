"""Profiles and binding plans: pure functions, so every layout, budget and phase is looked at."""

from dataclasses import replace

import numpy as np
import pytest

from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import Budget, LayerWidth
from flextron_export.errors import InputError, TargetError
from flextron_export.graph.contract import LAYOUTS, StepShape, input_shapes
from flextron_export.targets._tensorrt.binding import ALIGNMENT, Layout, bind, cache_layout, fitting_capacity, pieces
from flextron_export.targets._tensorrt.profiles import PHASES, Limits, plan_specs, profiles
from flextron_export.targets._tensorrt.record import EngineRecord, PlanRecord

LIMITS = Limits((256, 512), max_batch=3, max_length=100)
MIXED = Budget("mixed", (LayerWidth(4, 64), LayerWidth(1, 256)))


@pytest.fixture(scope="module")
def mixed(shipped):
    """The bundle with a third budget whose layers differ."""
    return replace(shipped, budgets=(*shipped.budgets, MIXED))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_budget_and_phase_has_a_profile_of_exactly_the_graphs_inputs(mixed, layout):
    found = profiles(mixed, layout, LIMITS, 256)
    assert [(p.budget, p.phase) for p in found] == [(b.name, phase) for b in mixed.budgets for phase in PHASES]
    for profile in found:
        budget = next(b for b in mixed.budgets if b.name == profile.budget)
        longest = 100 if profile.phase == "prefill" else 1
        for at, step in ((0, StepShape(1, 1, 256)), (2, StepShape(3, longest, 256, 3))):
            wanted = input_shapes(layout, mixed.architecture, mixed.candidates, budget, step)
            assert {name: shapes[at] for name, shapes in profile.shapes.items()} == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shapes_within_a_profile_are_ordered(mixed, layout):
    for profile in profiles(mixed, layout, LIMITS, 256):
        for low, typical, high in profile.shapes.values():
            assert all(a <= b <= c for a, b, c in zip(low, typical, high, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_widths_are_exact_and_follow_the_layer(mixed, layout):
    a = mixed.architecture
    for profile in profiles(mixed, layout, LIMITS, 256)[-2:]:
        for i, width in enumerate(MIXED.layers):
            assert {shape[1] for shape in profile.shapes[f"k.{i}"]} == {width.groups}
        if layout == "shared":
            for spec in tensor_specs(a):
                assert profile.shapes[spec.name] == (spec.active(a, MIXED.layers),) * 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_engine_per_capacity_and_per_budget_where_graphs_are_static(mixed, layout):
    specs = plan_specs(mixed, layout, LIMITS)
    graphs = len(mixed.budgets) if layout == "per-budget" else 1
    assert len(specs) == len({s.file for s in specs}) == 2 * graphs
    assert all(len(s.profiles) == 2 * len(mixed.budgets) // graphs for s in specs)
    assert all(shape[2] == s.capacity for s in specs for p in s.profiles for shape in p.shapes["v.1"])


def test_default_limits_suit_the_model(shipped):
    assert Limits.choose(shipped, "shared", None, 4, 256).capacities == (256, 512)
    assert Limits.choose(shipped, "panels", None, 4, 256).capacities == (512,)
    assert Limits.choose(shipped, "shared", 64, 4, 256) == Limits((64,), 4, 64)


def test_all_senseless_limits_are_named_at_once(shipped):
    with pytest.raises(
        InputError, match=r"capacity of 0.*capacity of 9999, but the model has 512.*batch of 0.*length of 0"
    ):
        Limits.choose(shipped, "shared", (0, 9999), 0, 0)


def indices(spec):
    found = {}
    for i, profile in enumerate(spec.profiles):
        found.setdefault(profile.budget, {})[profile.phase] = i
    return found


def record(bundle, layout):
    plans = []
    for spec in plan_specs(bundle, layout, LIMITS):
        plans.append(PlanRecord(spec.file, 1, "0", spec.capacity, indices(spec), 1.0))
    return EngineRecord(
        "tensorrt-rtx", "tensorrt_rtx", "1.7.1", (89,), layout, "fp16", 3, 100, "fused", {}, tuple(plans), 1.0, "test"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_call_is_bound_to_the_profile_that_was_built_for_it(mixed, layout):
    engine = record(mixed, layout)
    for capacity in LIMITS.capacities:
        built = {s.file: s.profiles for s in plan_specs(mixed, layout, LIMITS) if s.capacity == capacity}
        for budget in mixed.budgets:
            for length in (1, 7):
                step = StepShape(2, length, capacity, 2)
                found = bind(mixed, engine, budget, step)
                profile = built[found.plan][found.profile]
                assert (profile.budget, profile.phase) == (budget.name, PHASES[length > 1])
                assert found.shapes == input_shapes(layout, mixed.architecture, mixed.candidates, budget, step)
                for name, shape in found.shapes.items():
                    low, _, high = profile.shapes[name]
                    assert all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)), name
                assert found.logits == (2, 257)
                assert found.in_place == {n: f"{n}.out" for n in ("k.0", "v.0", "k.1", "v.1")}


def test_a_layout_binds_its_own_kind_of_weights(mixed):
    step = StepShape(1, 1, 256)
    shared, panels, static = (
        bind(mixed, record(mixed, name), MIXED, step) for name in ("shared", "panels", "per-budget")
    )
    assert set(shared.weights) == {s.name for s in tensor_specs(mixed.architecture)}
    assert {n: v.tolist() for n, v in panels.choices.items()} == {"groups": [3, 0], "neurons": [0, 3]}
    assert not (static.weights or static.choices or panels.weights or shared.choices)


def test_a_router_has_one_profile_per_phase_whatever_its_target(routed_bundle):
    limits = Limits((128,), max_batch=3, max_length=100)
    (spec,) = plan_specs(routed_bundle, "routed", limits)
    assert [(p.budget, p.phase) for p in spec.profiles] == [("routed", phase) for phase in PHASES]
    assert spec.profiles[1].shapes["target"] == ((1, 3), (1, 3), (3, 3))
    engine = replace(record(routed_bundle, "routed"), plans=(PlanRecord("128.plan", 1, "0", 128, indices(spec), 1.0),))
    for name, code in (("r100", [1, 0, 0]), ("r50", [0, 0, 1]), ("r90", [0.6, 0.4, 0])):
        budget = routed_bundle.budget(name, "routed")
        found = bind(routed_bundle, engine, budget, StepShape(2, 1, 128, 2))
        assert (found.plan, found.profile, found.weights) == ("128.plan", 0, ())
        np.testing.assert_allclose(found.choices["target"], [code, code], atol=1e-6)
        assert found.shapes["k.1"] == (2, 4, 128, 16)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (StepShape(4, 1, 256), "up to 3 sequences, not 4.*--max-batch 4"),
        (StepShape(1, 101, 256), "up to 100 tokens per sequence, not 101.*--max-length 101"),
        (StepShape(1, 50, 256, 4), "up to 3 rows of logits, not 4"),
        (StepShape(1, 1, 300), "No engine was built for budget 'mixed' and capacity 300.*flextron-export build"),
    ],
)
def test_more_than_was_built_for_is_refused_with_the_command(mixed, step, words):
    with pytest.raises(TargetError, match=f"(?s){words}"):
        bind(mixed, record(mixed, "shared"), MIXED, step)


def test_a_cache_gets_the_smallest_capacity_that_holds_it(mixed):
    engine = record(mixed, "shared")
    assert [fitting_capacity(engine, n) for n in (1, 256, 257, 512)] == [256, 256, 512, 512]
    with pytest.raises(
        TargetError, match=r"(?s)up to 512 tokens per sequence, not 513.*--capacity 256,513 --max-batch 3"
    ):
        fitting_capacity(engine, 513)


def test_buffers_are_aligned_and_do_not_overlap(mixed):
    sizes = {"a": 1, "b": 256, "c": 257, "d": 3}
    layout = Layout.of(sizes.items())
    assert layout == Layout({"a": 0, "b": 256, "c": 512, "d": 1024}, 1280)
    caches = cache_layout(mixed, "fp16", MIXED, 2, 256)
    assert all(offset % ALIGNMENT == 0 for offset in caches.offsets.values())
    assert caches.bytes == 2 * (4 + 1) * 2 * 256 * 16 * 2  # caches x groups x batch x slots x head_dim x bytes


@pytest.mark.parametrize("most", [3, 7, 100])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 5, 8, 9])
def test_pieces_of_a_long_prompt_give_every_row_once(batch, length, most):
    tokens = np.arange(batch * length).reshape(batch, length)
    rows = list(reversed(range(batch * length)))
    found = np.full(len(rows), -1)
    covered = []
    for piece in pieces(length, rows, 4, most):
        assert piece.stop - piece.start <= 4 and len(piece.rows) <= most
        covered += range(piece.start, piece.stop)
        part = tokens[:, piece.start : piece.stop].ravel()
        found[list(piece.into)] = part[list(piece.rows[: len(piece.into)])]
    assert covered == list(range(length))
    assert found.tolist() == rows


def test_a_piece_that_nobody_asks_still_names_a_row():
    first, second = pieces(8, [7], 4, 1)
    assert (first.rows, first.into) == ((0,), ())
    assert (second.rows, second.into) == ((3,), (0,))
