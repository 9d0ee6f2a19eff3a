"""Widths from logits: the most probable, mended to the latency asked for."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flextron_export.training.routed_latency import RoutedLatency
from flextron_export.training.router_budgets import TOLERANCE, choose, refine

FINE = RoutedLatency(2.0, (0.5, 1.0, 1.5, 2.0), (1.0, 2.0, 3.0, 4.0), 12)
COARSE = RoutedLatency(0.0, (1.0, 10.0), (1.0, 10.0), 1)


def logits(*rows: tuple[list[float], list[float]]) -> list[dict[str, np.ndarray]]:
    return [{"attention": np.array(a), "ffn": np.array(f)} for a, f in rows]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(FINE.fastest / FINE.full, 1))
def test_every_target_is_met_within_the_tolerance(seed: int, target: float) -> None:
    random = np.random.default_rng(seed)
    drawn = logits(*((random.standard_normal(4), random.standard_normal(4)) for _ in range(12)))
    choices = choose(drawn, FINE, target)
    assert abs(FINE.of_choices(choices) / (target * FINE.full) - 1) <= TOLERANCE
    assert choose(drawn, FINE, target) == choices


def test_what_is_near_enough_is_left_alone() -> None:
    wanted = logits(*([([0, 0, 0, 1], [0, 0, 0, 1])] * 11 + [([0, 0, 1, 0], [0, 1, 0, 0])]))
    choices = choose(wanted, FINE, 0.97)
    assert choices == [{"attention": 3, "ffn": 3}] * 11 + [{"attention": 2, "ffn": 1}]


def test_the_least_certain_choices_move_first() -> None:
    table = RoutedLatency(0.0, (1.0, 2.0), (1.0, 2.0), 2)
    sure, unsure, between = [0.0, 9.0], [0.0, 1.0], [0.0, 5.0]
    drawn = logits((sure, unsure), (between, sure))
    assert choose(drawn, table, 0.875) == [{"attention": 1, "ffn": 0}, {"attention": 1, "ffn": 1}]
    assert choose(drawn, table, 0.75) == [{"attention": 1, "ffn": 0}, {"attention": 0, "ffn": 1}]
    widen = logits(([9.0, 0.0], [5.0, 0.0]), ([1.0, 0.0], [9.0, 0.0]))
    assert choose(widen, table, 0.75) == [{"attention": 0, "ffn": 1}, {"attention": 1, "ffn": 0}]


def test_widths_of_the_same_latency_are_stepped_over() -> None:
    flat = RoutedLatency(0.0, (1.0, 2.0, 2.0, 2.0), (4.0,), 1)
    assert choose(logits(([0, 0, 0, 1], [0])), flat, 5 / 6) == [{"attention": 0, "ffn": 0}]


def test_where_no_widths_are_near_the_nearest_of_the_next_step_is_taken() -> None:
    high = logits(([0, 1], [0, 1]))
    assert COARSE.full == 20
    assert choose(high, COARSE, 0.8) == [{"attention": 1, "ffn": 1}]  # 20 is nearer to 16 than 11
    assert choose(high, COARSE, 0.7) == [{"attention": 0, "ffn": 1}]


def test_target_1_is_the_full_model_whatever_the_logits() -> None:
    assert choose(logits(([9, 0], [9, 0])), COARSE, 1.0) == [{"attention": 1, "ffn": 1}]


def test_a_choice_is_refined_by_loss_within_its_latency_the_most_probable_neighbours_first() -> None:
    table = RoutedLatency(0.0, (1.0, 2.0), (1.0, 2.0, 3.0), 2)
    drawn = logits(([0, 1], [0, 2, 4]), ([0, 1], [3, 2, 0]))
    start = choose(drawn, table, 0.8)
    assert start == [{"attention": 1, "ffn": 2}, {"attention": 1, "ffn": 0}] and table.of_choices(start) == 8
    asked: list[list[dict[str, int]]] = []

    def loss(choices: list[dict[str, int]]) -> float:
        """The second layer's FFN matters, nothing else."""
        asked.append(choices)
        return -choices[1]["ffn"]

    refined = refine(start, drawn, table, 0.8, loss)
    assert refined[1]["ffn"] == 2 and table.of_choices(refined) <= 8
    assert asked[0] == start and asked[1] == [{"attention": 0, "ffn": 2}, {"attention": 1, "ffn": 1}]
    assert all(0.95 * 8 <= table.of_choices(c) <= 8 for c in asked), "neither faster than the tolerance nor slower"
    assert len(asked) == len({str(c) for c in asked}) <= 17
    asked.clear()
    assert refine(start, drawn, table, 0.8, loss, evaluations=1) == asked[1]
    assert refine(start, drawn, table, 0.8, lambda _: 0.0) == start, "what is not better is not taken"
    assert refine(start, drawn, table, 1.0, lambda _: 1 / 0) == start  # type: ignore[arg-type, return-value]


def test_a_choice_that_is_slower_than_its_target_gives_way_to_the_best_that_is_not() -> None:
    # Within the tolerance, so `choose` leaves it; one step of either layer's FFN is fast enough.
    table = RoutedLatency(0.0, (2.0, 2.1), (1.0, 1.3), 2)
    drawn = logits(([0, 9], [0, 9]), ([0, 9], [0, 9]))
    start = choose(drawn, table, 0.97)
    assert start == [{"attention": 1, "ffn": 1}] * 2 and table.of_choices(start) > 0.97 * table.full
    refined = refine(start, drawn, table, 0.97, lambda choices: -10.0 if choices == start else choices[1]["attention"])
    assert refined != start and 0.95 <= table.of_choices(refined) / (0.97 * table.full) <= 1
