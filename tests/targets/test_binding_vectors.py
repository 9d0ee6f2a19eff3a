"""The binding plan, as vectors that the C++ runtime is tested with too.

`python -m tests.targets.test_binding_vectors` writes them anew.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import TargetError
from flextron_export.graph.contract import LAYOUTS, StepShape
from flextron_export.targets._tensorrt.binding import bind, cache_layout, fitting_capacity
from flextron_export.targets._tensorrt.profiles import Limits, plan_specs
from flextron_export.targets._tensorrt.record import EngineRecord, PlanRecord
from tests.random_bundle import random_bundle

FILE = Path(__file__).with_name("binding_vectors.json")
LIMITS = Limits((64, 128), max_batch=2, max_length=8)
STEPS = ((1, 1, 64, 1), (1, 5, 128, 1), (2, 8, 64, 2), (2, 1, 128, 2), (3, 1, 64, 1), (1, 9, 64, 1), (1, 1, 96, 1))


def record(bundle: Bundle, layout: str) -> EngineRecord:
    plans = []
    for spec in plan_specs(bundle, layout, LIMITS):
        indices: dict[str, dict[str, int]] = {}
        for i, profile in enumerate(spec.profiles):
            indices.setdefault(profile.budget, {})[profile.phase] = i
        plans.append(PlanRecord(spec.file, 1, "", spec.capacity, indices, 0.0))
    fixed: Any = ("tensorrt-rtx", "tensorrt_rtx", "1.7.1.116", (86, 89), layout, "fp16", 2, 8, "fused", {})
    return EngineRecord(*fixed, tuple(plans), 0.0, "flextron_export")


def case(bundle: Bundle, engine: EngineRecord, budget: str, sizes: tuple[int, int, int, int]) -> dict[str, Any]:
    step, wanted = StepShape(*sizes), bundle.budget(budget)
    found: dict[str, Any] = {"layout": engine.layout, "budget": budget, "step": list(sizes)}
    try:
        plan = bind(bundle, engine, wanted, step)
    except TargetError as error:
        return {**found, "error": error.what}
    caches = cache_layout(bundle, "fp16", wanted, step.batch, step.capacity)
    return {
        **found,
        "plan": plan.plan,
        "profile": plan.profile,
        "shapes": {name: list(shape) for name, shape in plan.shapes.items()},
        "logits": list(plan.logits),
        "weights": list(plan.weights),
        "choices": {name: array.tolist() for name, array in plan.choices.items()},
        "in_place": plan.in_place,
        "cache_offsets": caches.offsets,
        "cache_bytes": caches.bytes,
    }


def vectors(bundle: Bundle) -> dict[str, Any]:
    records = {layout: record(bundle, layout) for layout in LAYOUTS}
    one = records["shared"]
    return {
        "about": "Binding plans, for every implementation; written by tests/targets/test_binding_vectors.py.",
        "architecture": bundle.architecture.to_json(),
        "candidates": bundle.candidates.to_json(),
        "budgets": [budget.to_json() for budget in bundle.budgets],
        "records": {layout: engine.to_json() for layout, engine in records.items()},
        "capacities": {str(tokens): fitting_capacity(one, tokens) for tokens in (1, 64, 65, 128)},
        "cases": [case(bundle, records[x], b, step) for x in LAYOUTS for b in ("full", "p34") for step in STEPS],
    }


def text(bundle: Bundle) -> str:
    return json.dumps(vectors(bundle), indent=1) + "\n"


def test_the_vectors_are_what_the_binding_plan_says(tmp_path: Path) -> None:
    assert json.loads(FILE.read_text()) == json.loads(text(Bundle.open(random_bundle(tmp_path))))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        FILE.write_text(text(Bundle.open(random_bundle(Path(directory)))))
