"""Plots show what they are given: every measured budget and target, the curve of every layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.elastic.widths import Candidates
from flextron_export.errors import InputError
from flextron_export.plots import check_image, importance_curves, quality_against_latency, widths_of_budgets
from flextron_export.runtime.calibrate import calibrate
from flextron_export.training.importance import Importance
from tests.random_bundle import random_bundle


def test_the_plot_names_every_measured_budget_and_target(tmp_path: Path) -> None:
    bundle = Bundle.open(random_bundle(tmp_path))
    table = calibrate(bundle, contexts=(16,), prompt_lengths=(8,), repeats=6, threads=1)
    losses = [None, *(3.0 + i for i in range(len(bundle.budgets) - 1))]
    budgets = tuple(replace(b, validation_loss=loss) for b, loss in zip(bundle.budgets, losses, strict=True))
    path = tmp_path / "plots" / "plot.svg"
    drawn = quality_against_latency(
        replace(bundle, budgets=budgets), table, path, context=16, targets={"goal 1 ms": 1.0}
    )
    assert drawn == path
    text = path.read_text()
    # matplotlib writes each text as a comment before its glyphs.
    assert all(f"<!-- {b.name} -->" in text for b in budgets[1:])
    assert f"<!-- {budgets[0].name} -->" not in text
    assert "<!-- goal 1 ms -->" in text


def test_an_unknown_image_format_is_an_error(tmp_path: Path) -> None:
    bundle = Bundle.open(random_bundle(tmp_path))
    table = calibrate(bundle, contexts=(16,), prompt_lengths=(8,), repeats=6, threads=1)
    with pytest.raises(ValueError, match="not supported"):
        quality_against_latency(bundle, table, tmp_path / "plot.nothing", context=16)


@pytest.mark.parametrize("values", [np.arange(1.0, 13.0), np.zeros(12)], ids=["importance", "nothing has any"])
def test_the_importance_report_has_a_curve_and_a_share_for_every_layer(tmp_path: Path, values: np.ndarray) -> None:
    importance = Importance(values.reshape(3, 4)[:, ::-1], np.repeat(values.reshape(3, 4), 8, axis=1))
    path = importance_curves(importance, tmp_path / "new" / "report.svg", Candidates((2, 4), (16, 32)), "tiny, by rms")
    text = path.read_text()
    for words in ("importance of KV groups", "FFN neurons kept", "all equal", "layer", "by rms"):
        assert words in text
    # One line per layer in each of four panels, and one dashed line per candidate in each.
    assert text.count('id="line2d') >= 4 * 3 + 2 * 4


def test_a_name_that_is_no_image_is_refused_before_any_work(tmp_path: Path) -> None:
    check_image(tmp_path / "report.PNG")
    with pytest.raises(InputError, match=r"report\.doc has an ending of no image format") as error:
        check_image(tmp_path / "report.doc")
    assert "png" in str(error.value)
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="cannot be written"):
        check_image(tmp_path / "file" / "report.png")


def test_the_widths_of_every_budget_are_drawn_for_every_layer(tmp_path: Path) -> None:
    bundle = Bundle.open(random_bundle(tmp_path))
    path = widths_of_budgets(bundle.budgets, bundle.architecture, bundle.candidates, tmp_path / "widths.svg", "tiny")
    text = path.read_text()
    assert all(
        f"<!-- {b.name}: {b.parameters(bundle.architecture) / 1e6:.3g}M parameters -->" in text for b in bundle.budgets
    )
    assert "<!-- tiny: widths by budget -->" in text
