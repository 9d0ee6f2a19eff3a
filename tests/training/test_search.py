"""Searching budgets: targets are met, losses beat uniform widths where layers differ, evaluations are bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.widths import Budget, Candidates, LayerWidth
from flextron_export.errors import InputError
from flextron_export.training.latency_model import LatencyModel
from flextron_export.training.search import search
from flextron_export.training.search_checkpoint import search_checkpoint

CANDIDATES = Candidates((2, 4, 8), (32, 64, 128))
LAYERS = 6
LATENCY = LatencyModel("decode", 1, 1.0, (0.25, 0.5, 1.0), (0.5, 1.0, 2.0), {}, CANDIDATES, LAYERS)
FULL = LATENCY.full(LAYERS)


def loss(budget: Budget) -> float:
    """Convex in every width; the first and the last layer matter ten times as much, attention twice as much as FFN."""
    return 2.0 + sum(
        (10.0 if i in (0, LAYERS - 1) else 1.0) * (0.02 * (8 / w.groups - 1) + 0.01 * (128 / w.neurons - 1))
        for i, w in enumerate(budget.layers)
    )


def targets(*fractions: float) -> dict[str, float]:
    return {f"t{100 * f:g}": f * FULL for f in fractions}


def test_every_target_is_met_and_beats_the_best_uniform_width() -> None:
    found = search(loss, LATENCY, CANDIDATES, LAYERS, targets(0.5, 0.8, 0.35))
    assert [f.budget.name for f in found] == ["t80", "t50", "t35"]
    for f in found:
        assert LATENCY.predict(f.budget, CANDIDATES) == pytest.approx(f.milliseconds)
        assert f.milliseconds <= f.target
        assert f.budget.validation_loss == loss(f.budget)
        assert f.uniform is not None and LATENCY.predict(f.uniform, CANDIDATES) <= f.target
        assert f.budget.validation_loss < f.uniform.validation_loss
    # What matters stays wide.
    assert found[1].budget.layers[0].groups == 8 > found[1].budget.layers[2].groups


def test_the_search_finds_the_best_of_all_widths_in_a_small_space() -> None:
    two = LatencyModel("decode", 1, 0.5, (0.3, 0.4, 1.0), (0.5, 1.1, 1.9))
    every = [
        Budget("b", (LayerWidth(a, b), LayerWidth(c, d)))
        for a in CANDIDATES.groups for b in CANDIDATES.neurons for c in CANDIDATES.groups for d in CANDIDATES.neurons
    ]  # fmt: skip

    def tilted(budget: Budget) -> float:
        return (
            2 + 3 * (8 / budget.layers[0].groups) ** 0.5 + 64 / budget.layers[0].neurons + 5 / budget.layers[1].groups
        )

    for fraction in (0.9, 0.7, 0.5):
        target = fraction * two.full(2)
        (found,) = search(tilted, two, CANDIDATES, 2, {"t": target})
        best = min(tilted(b) for b in every if two.predict(b, CANDIDATES) <= target)
        assert found.budget.validation_loss == pytest.approx(best)


def test_few_evaluations_still_meet_every_target() -> None:
    asked: list[Budget] = []

    def counted(budget: Budget) -> float:
        asked.append(budget)
        return loss(budget)

    found = search(counted, LATENCY, CANDIDATES, LAYERS, targets(0.6, 0.4), max_evaluations=15)
    assert all(f.milliseconds <= f.target for f in found)
    assert len(asked) == len({b.layers for b in asked})  # nothing is computed twice
    assert len(asked) < 15 + 40
    unlimited = search(loss, LATENCY, CANDIDATES, LAYERS, targets(0.6, 0.4))
    assert all(a.budget.validation_loss <= b.budget.validation_loss for a, b in zip(unlimited, found, strict=True))


def test_the_same_search_gives_the_same_budgets_and_reports_its_progress() -> None:
    reported: list[int] = []
    first = search(loss, LATENCY, CANDIDATES, LAYERS, targets(0.5), report=lambda n, _: reported.append(n))
    assert first == search(loss, LATENCY, CANDIDATES, LAYERS, targets(0.5))
    assert reported == list(range(1, len(reported) + 1))


def test_a_step_that_saves_nothing_does_not_stop_the_descent() -> None:
    flat = LatencyModel("decode", 1, 1.0, (0.25, 1.0, 1.0), (0.5, 2.0, 2.0))
    (found,) = search(loss, flat, CANDIDATES, LAYERS, {"t": flat.fastest(LAYERS)})
    assert found.milliseconds == flat.fastest(LAYERS)


def test_targets_below_the_fastest_network_are_refused_with_its_latency() -> None:
    with pytest.raises(InputError, match=r"t10 asks for 1\.9 ms, but the fastest .* takes 5\.5 ms \(0\.289 .*19 ms\)"):
        search(loss, LATENCY, CANDIDATES, LAYERS, targets(0.1, 0.5))
    with pytest.raises(InputError, match="there is none"):
        search(loss, LATENCY, CANDIDATES, LAYERS, {})


def test_a_latency_model_of_other_candidates_is_refused() -> None:
    with pytest.raises(InputError, match="3 entries for groups, there are 2 candidates"):
        search(loss, LATENCY, Candidates((4, 8), (32, 64, 128)), LAYERS, targets(0.5))


def _proportional(checkpoint: ElasticCheckpoint) -> LatencyModel:
    candidates, layers = checkpoint.candidates, checkpoint.architecture.num_layers
    groups = tuple(g / candidates.groups[-1] for g in candidates.groups)
    neurons = tuple(2 * n / candidates.neurons[-1] for n in candidates.neurons)
    return LatencyModel("decode", 1, 0.1, groups, neurons, {}, candidates, layers)


def test_found_budgets_are_written_into_a_new_checkpoint_with_losses_on_text_held_out(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    old = ElasticCheckpoint.open(tiny_checkpoint)
    latency = _proportional(old)
    out, found = search_checkpoint(
        tiny_checkpoint, [tiny_text], latency, ["0.8", "0.6"], tmp_path / "out", length=32, sequences=4, threads=1
    )
    assert [b.name for b in out.budgets] == [b.name for b in old.budgets] + ["t80", "t60"]
    assert out.budgets[: len(old.budgets)] == old.budgets
    for f in found:
        assert out.budget(f.budget.name) == f.budget and f.budget.validation_loss is not None
        assert latency.predict(f.budget, out.candidates) <= f.target
    assert out.notes["search"]["targets"].keys() == {"t80", "t60"}
    out.check_files()
    # Again with other targets, in place: t60 is replaced, t80 kept.
    again, _ = search_checkpoint(
        out.path, [tiny_text], latency, ["0.6", "0.7"], out.path, length=32, sequences=4, threads=1, overwrite=True
    )
    assert [b.name for b in again.budgets][-3:] == ["t80", "t70", "t60"]
    assert again.budget("t60").layers == out.budget("t60").layers


def test_what_cannot_be_searched_is_refused_before_anything_is_written(
    tiny_checkpoint: Path, tiny_text: Path, tmp_path: Path
) -> None:
    latency = _proportional(ElasticCheckpoint.open(tiny_checkpoint))
    with pytest.raises(InputError, match="but the fastest network"):
        search_checkpoint(tiny_checkpoint, [tiny_text], latency, ["0.01"], tmp_path / "out")
    with pytest.raises(InputError, match="does not fit the candidate widths"):
        search_checkpoint(tiny_checkpoint, [tiny_text], LATENCY, ["0.5"], tmp_path / "out")
    with pytest.raises(InputError, match=r"exists(.|\n)*--overwrite"):
        search_checkpoint(tiny_checkpoint, [tiny_text], latency, ["0.8"], tiny_checkpoint)
    assert not (tmp_path / "out").exists()
