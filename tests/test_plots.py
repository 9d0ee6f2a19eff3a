"""The plot of quality against latency shows every budget that has both, and the targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.plots import quality_against_latency
from flextron_export.runtime.calibrate import calibrate
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
