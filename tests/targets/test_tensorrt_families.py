"""The graphs of every family compile on TensorRT-RTX with fused attention."""

from __future__ import annotations

from pathlib import Path

import pytest

from flextron_export.exporting import export
from flextron_export.graph.contract import ALL_LAYOUTS, ROUTED
from flextron_export.targets.build import build
from tests.elastic_models import FAMILIES, MODELS, elastic_model, routed_model

CELLS = [
    pytest.param(kind, layout, marks=[] if kind == "gpt2" and layout == "shared" else pytest.mark.slow)
    for kind in FAMILIES
    for layout in ALL_LAYOUTS
]
SHAPE = {"gpt2": {"hidden": 128}}  # its heads are as wide as the hidden size allows: 8 x 16


@pytest.mark.parametrize(("kind", "layout"), CELLS)
def test_every_family_compiles(tmp_path: Path, kind: str, layout: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    make = routed_model if layout == ROUTED else elastic_model
    source = make(tmp_path / "checkpoint", **MODELS[kind], **SHAPE.get(kind, {}))
    options = {"layouts": (layout,), "dtypes": ("fp16",), "budgets": ("full", "small"), "verify": False}
    bundle = export(source.path, tmp_path / "bundle", **options)
    record = build(bundle.path, "tensorrt-rtx", layout=layout, sm=(89,), capacity=64, max_batch=1, max_length=32)
    conditional = layout in ("panels", ROUTED)
    assert record["attention"] == ("fused or decomposed" if conditional else "fused")
    wanted = {ROUTED} if layout == ROUTED else {"full", "small"}
    assert {name for plan in record["plans"] for name in plan["profiles"]} == wanted
