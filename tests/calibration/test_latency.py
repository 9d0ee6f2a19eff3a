"""The published latency models: they load, say how they were made, and the analytic ones are what the code computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from flextron_export.elastic.widths import Candidates
from flextron_export.targets.device_description import device_description, device_ids
from flextron_export.training.analytic_latency import analytic_latency, shape_architecture
from flextron_export.training.latency_model import LatencyModel

FOLDER = Path(__file__).parents[2] / "calibration/latency"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_published_model_is_reproduced_or_tells_its_error(path: Path) -> None:
    model = LatencyModel.load(path)
    shape, dtype, where, phase = path.stem.split(".")
    assert model.phase == phase and model.source["dtype"] == dtype
    if where not in device_ids():
        assert 0 < model.source["error"]["median"] < 0.1
        return
    architecture = shape_architecture(shape)
    again = analytic_latency(
        architecture,
        Candidates.default(architecture),
        device_description(where),
        phase=phase,
        tokens=model.tokens,
        dtype=dtype,
    )
    assert model.groups == pytest.approx(again.groups, rel=1e-4)
    assert model.neurons == pytest.approx(again.neurons, rel=1e-4)
    assert model.intercept == pytest.approx(again.intercept, rel=1e-4)


def test_every_described_device_has_both_phases() -> None:
    assert {tuple(p.stem.split(".")[2:]) for p in FILES} >= {
        (device, phase) for device in device_ids() for phase in ("decode", "prefill")
    }
