"""`router.onnx` chooses as the prompt router does, and the runner takes the nearest budget that meets the target."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.router import Router
from flextron_export.elastic.widths import LayerWidth
from flextron_export.errors import InputError
from flextron_export.exporting import export
from flextron_export.runtime.calibrate import calibrate
from flextron_export.runtime.prompt_router import PromptRouter
from flextron_export.runtime.runner import Runner
from flextron_export.runtime.table import BudgetCost, LatencyTable, Timing
from flextron_export.targets.verify_choices import prompt_router_checks
from tests.elastic_models import routed_model

PROMPTS = np.random.default_rng(0).integers(0, 260, (12, 9)).tolist()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> ElasticCheckpoint:
    return routed_model(tmp_path_factory.mktemp("prompt") / "checkpoint", kind="prompt")


@pytest.fixture(scope="module")
def bundle(checkpoint: ElasticCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("prompt") / "bundle"
    return export(checkpoint.path, out, layouts=["panels"], dtypes=["fp32"], verify=False)


def chosen(router: Router, embedding: np.ndarray, target: float) -> tuple[LayerWidth, ...]:
    c = router.record.candidates
    return tuple(
        LayerWidth(c.groups[part["attention"].argmax()], c.neurons[part["ffn"].argmax()])
        for part in router.layers(target, embedding)
    )


def test_the_graph_chooses_as_the_router_of_the_checkpoint(checkpoint: ElasticCheckpoint, bundle: Bundle) -> None:
    router, graph = checkpoint.router(), PromptRouter(bundle)
    assert router is not None
    table = checkpoint.weights()["model.embed_tokens.weight"]
    for target in (0.75, 0.6, 0.5):
        found = [graph.widths(prompt, target) for prompt in PROMPTS]
        assert found == [chosen(router, table[prompt].mean(0), target) for prompt in PROMPTS]
        assert len(set(found)) > 1, "all prompts chose alike"
    assert graph.widths(PROMPTS[0], 1.5) == bundle.budget("full").layers  # more time than the full model needs
    assert graph.widths(PROMPTS[0], 0.1) == graph.widths(PROMPTS[0], 0.5)


def test_the_runner_takes_the_nearest_budget_that_meets_the_target(bundle: Bundle) -> None:
    measured = calibrate(bundle, threads=1, contexts=[16], prompt_lengths=[8], repeats=6)
    names = [b.name for b in bundle.budgets]
    costs = {
        name: BudgetCost(b.parameters(bundle.architecture), (Timing.of(16, [ms]),), (Timing.of(8, [ms]),), 1, 1)
        for name, b, ms in zip(names, bundle.budgets, (10.0, 7.0, 6.0, 5.0), strict=True)
    }
    table = LatencyTable(measured.device, measured.target, "panels", "fp32", measured.bundle, costs)
    graph, seen = PromptRouter(bundle), set()
    with Runner(bundle, "7.5ms", threads=1, calibration=table) as runner:
        for prompt in PROMPTS:
            wanted = graph.widths(prompt, 0.75)

            def distance(name: str, wanted: tuple[LayerWidth, ...] = wanted) -> float:
                pairs = zip(bundle.budget(name).layers, wanted, strict=True)
                return sum(abs(a.groups - b.groups) / 4 + abs(a.neurons - b.neurons) / 128 for a, b in pairs)

            selection = runner.generate_ids(prompt, 1, stop_on_eos=False).selection
            assert distance(selection.budget.name) == min(map(distance, names[1:]))
            assert {r.budget.name: r.why for r in selection.rejected}["full"] == "over-target"
            assert "for this prompt, of 3 that meet" in selection.reason and selection.met
            seen.add(selection.budget.name)
        asked = runner.select(budget="full")
        assert runner.generate_ids(PROMPTS[0], 1, selection=asked, stop_on_eos=False).selection is asked
        # A batch runs at one budget: the one with the smallest sum of distances.
        for batch in (PROMPTS[:2], PROMPTS[2:7]):
            picked = runner.for_prompts(runner.selection, batch).budget.name
            sums = {n: sum(distance(n, graph.widths(prompt, 0.75)) for prompt in batch) for n in names[1:]}
            assert sums[picked] == min(sums.values())
            found = [answer.tokens for answer in runner.generate_batch(batch, 3, stop_on_eos=False)]
            chosen = runner.select(budget=picked)
            assert found == [list(runner.generate_ids(p, 3, selection=chosen, stop_on_eos=False)) for p in batch]
        with pytest.raises(InputError, match="outside the vocabulary"):
            runner.for_prompts(runner.selection, [[1, 99999]])
    assert len(seen) > 1, "all prompts got the same budget"


def test_verify_compares_the_choices_with_the_routers_own(bundle: Bundle, tmp_path: Path) -> None:
    checks = prompt_router_checks(bundle)
    assert [c.budget for c in checks] == ["r100", "r75", "r50", "r87.5", "r62.5"]
    assert all(c.passed and c.tokens_compared >= 0.9 * 16 * 2 * 2 for c in checks)
    shutil.copytree(bundle.path, tmp_path / "bundle")
    graph = onnx.load(tmp_path / "bundle" / "router.onnx", load_external_data=False)
    next(n for n in graph.graph.node if n.op_type == "LeakyRelu").attribute[0].f = 0.5
    (tmp_path / "bundle" / "router.onnx").write_bytes(graph.SerializeToString())
    wrong = prompt_router_checks(Bundle.open(tmp_path / "bundle", hashes=False))
    assert wrong[0].passed and not any(c.passed for c in wrong[1:3]), "target 1 is not computed"


def test_a_prompt_router_is_no_reason_for_layout_routed(checkpoint: ElasticCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has a prompt router, it needs a dynamic one"):
        export(checkpoint.path, tmp_path / "out", layouts=["routed"])
