"""Layout `routed`: the graph chooses, token by token, what the dynamic router in torch chooses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from flextron_export.bundle.manifest import Bundle
from flextron_export.elastic.model import load_model
from flextron_export.elastic.router import RoutedBudget
from flextron_export.errors import BundleError, InputError, VerificationError
from flextron_export.exporting import export
from flextron_export.graph.contract import StepShape, input_shapes
from flextron_export.runtime.calibrate import calibrate
from flextron_export.runtime.runner import Runner
from flextron_export.runtime.table import BudgetCost, LatencyTable, Timing
from flextron_export.targets.onnxruntime_cpu import open_session
from flextron_export.targets.references import budget_references
from flextron_export.targets.verify import BATCH, LENGTH, MODES, TOLERANCE, run_in_steps, verify, verify_bundle
from flextron_export.targets.verify_choices import choice_checks
from flextron_export.training.routers import Routers, one_hot
from flextron_export.training.routing import routed
from tests.elastic_models import MODELS, elastic_model, routed_model
from tests.random_bundle import write_manifest

from .conftest import Exported
from .test_graphs import initializers

TARGETS = (1.0, 0.75, 0.5)
ROUTED: dict[str, Any] = {"layouts": ("routed",)}


def exported(kind: str, directory: Path) -> Exported:
    checkpoint = routed_model(directory / "checkpoint", targets=TARGETS, **MODELS[kind])
    return Exported(checkpoint, export(checkpoint.path, directory / "bundle", **ROUTED))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported("grouped", tmp_path_factory.mktemp("routed"))


def in_torch(model: Exported, ids: np.ndarray, target: float) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """Logits, and the choices [batch, tokens] of every part."""
    router = model.checkpoint.router()
    assert router is not None
    routers, choices = Routers(router.record, model.checkpoint.architecture), []
    routers.read(router)
    of_target = routers.of(target)

    def decide(layer: int, part: str, x: torch.Tensor) -> torch.Tensor:
        logits = of_target(layer, part, x)
        choices.append((part, logits.argmax(-1).numpy()))
        return one_hot(logits)

    torch_model = load_model(model.checkpoint.path)
    a, c = model.checkpoint.architecture, model.checkpoint.candidates
    with torch.inference_mode(), routed(torch_model, a, c, decide):
        return torch_model(torch.from_numpy(ids)).logits.numpy(), choices


def in_onnx(model: Exported, ids: np.ndarray, target: float, step: int) -> np.ndarray:
    session = open_session(model.bundle, layout="routed", dtype="fp32", threads=1)
    assert model.bundle.router is not None
    budget = model.bundle.router.budget(model.bundle.architecture, target)
    return np.concatenate([logits for _, logits in run_in_steps(session, budget, ids, step)], axis=1)


@pytest.mark.parametrize("kind", ["multi-head", "biases, gelu", "mistral", "qwen3", "gpt2"])
def test_every_family_is_verified_at_every_target(kind: str, tmp_path: Path) -> None:
    """`export` has verified the graph; this is the comparison with what it stored."""
    model = exported(kind, tmp_path)
    checks = verify(model.bundle.path)
    assert {c.budget for c in checks} == {"r100", "r75", "r50"} and len(checks) == 2 * 18
    assert max(c.difference for c in checks if c.dtype == "fp32") < 2e-5
    assert all(c.tokens_compared > 0 for c in checks if c.dtype == "fp32")


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_every_choice_that_is_clear_and_every_logit_is_that_of_torch(grouped: Exported, dtype: str) -> None:
    checks = [
        c
        for c in verify(grouped.bundle.path, checkpoint=grouped.checkpoint.path)
        if c.dtype == dtype and c.mode.endswith("choices")
    ]
    assert {(c.budget, c.mode) for c in checks} == {(b, f"{m}, choices") for b in ("r75", "r50") for m in MODES}
    made = BATCH * LENGTH * 2 * 2  # two parts of two layers
    assert all(0.9 * made < c.tokens_compared <= made and c.tokens_wrong == 0 for c in checks)
    assert max(c.difference for c in checks) < TOLERANCE[dtype] / 5


def test_a_graph_whose_choices_are_swapped_is_noticed(grouped: Exported, tmp_path: Path) -> None:
    bundle = copied(grouped.bundle, tmp_path / "bundle")
    path = bundle.graph("routed", "fp16")
    model = onnx.load(path, load_external_data=False)
    node = next(n for n in model.graph.node if n.op_type == "ArgMax")
    node.op_type = "ArgMin"
    path.write_bytes(model.SerializeToString())
    references = budget_references(load_model(grouped.checkpoint.path), grouped.checkpoint, bundle.budgets_of("routed"))
    ids = {name: reference.ids for name, reference in references.items()}
    checks = choice_checks(bundle, grouped.checkpoint, "fp16", ids, TOLERANCE["fp16"])
    # The rest of the graph is right, and computes what torch does with these choices.
    assert all(c.tokens_wrong > 0 and c.difference < TOLERANCE["fp16"] for c in checks)


def copied(bundle: Bundle, out: Path) -> Bundle:
    shutil.copytree(bundle.path, out)
    return Bundle.open(out)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_graph_takes_what_the_contract_says(grouped: Exported, dtype: str) -> None:
    bundle = grouped.bundle
    graph = onnx.load(bundle.graph("routed", dtype), load_external_data=False).graph
    step = StepShape(batch=3, length=5, capacity=32, rows=2)
    budget = bundle.budgets_of("routed")[1]
    wanted = input_shapes("routed", bundle.architecture, bundle.candidates, budget, step, bundle.targets)
    given = {v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in graph.input}
    symbols = {"B": 3, "S": 5, "C": 32, "N": 2}
    assert {n: tuple(symbols.get(d, d) for d in dims) for n, dims in given.items()} == wanted
    assert wanted["target"] == (3, 3)


@pytest.mark.parametrize(("batch", "length", "step"), [(1, 9, 9), (3, 9, 4), (2, 7, 1)])
@pytest.mark.parametrize("target", [0.75, 0.6])
def test_tokens_choose_as_in_torch_for_any_batch_and_length(
    grouped: Exported, batch: int, length: int, step: int, target: float
) -> None:
    ids = np.random.default_rng(batch).integers(0, 260, (batch, length))
    expected, choices = in_torch(grouped, ids, target)
    np.testing.assert_allclose(
        in_onnx(grouped, ids, target, step), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
    for part in ("attention", "ffn"):
        assert len(np.unique([c for p, c in choices if p == part])) > 1, "all tokens chose alike"


def test_target_1_is_the_full_model_whatever_the_router_would_choose(grouped: Exported) -> None:
    ids = np.arange(20, 36).reshape(2, 8)
    with torch.inference_mode():
        full = load_model(grouped.checkpoint.path)(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(in_onnx(grouped, ids, 1.0, 8), full, rtol=0, atol=1e-5 * np.abs(full).max())
    asked, _ = in_torch(grouped, ids, 1.0)
    assert np.abs(asked - full).max() > 0.01 * np.abs(full).max(), "the router would choose the full model here anyway"


def test_sequences_of_one_batch_may_have_targets_of_their_own(grouped: Exported) -> None:
    import onnxruntime

    from flextron_export.elastic.router import encode

    ids, targets = np.arange(40, 58).reshape(3, 6), (1.0, 0.6, 0.5)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(grouped.bundle.path.resolve())
    )
    session = onnxruntime.InferenceSession(grouped.bundle.graph("routed", "fp32"), options)
    cache = np.zeros((3, 4, 8, grouped.bundle.architecture.head_dim), np.float32)
    found = session.run(
        ["logits"],
        {
            **{f"{name}.{i}": cache for name in "kv" for i in range(2)},
            "ids": ids,
            "positions": np.tile(np.arange(6), (3, 1)),
            "write": np.zeros(3, np.int64),
            "rows": np.arange(18),
            "target": np.stack([encode(TARGETS, t) for t in targets]),
        },
    )[0].reshape(3, 6, -1)
    for row, target in enumerate(targets):
        alone = in_onnx(grouped, ids[row : row + 1], target, 6)
        np.testing.assert_allclose(found[row : row + 1], alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def test_attention_stays_outside_the_branches_and_weights_outside_the_graph(grouped: Exported) -> None:
    for dtype, attention in (("fp32", "GroupQueryAttention"), ("fp16", "Attention")):
        graph = onnx.load(grouped.bundle.graph("routed", dtype), load_external_data=False).graph
        assert [n.op_type for n in graph.node].count(attention) == 2
        inside = [t for t in initializers(graph) if not t.external_data]
        assert all(t.ByteSize() < 400 for t in inside)
        files = {e.value for t in initializers(graph) for e in t.external_data if e.key == "location"}
        assert files == {f"weights.{dtype}.safetensors", "router.safetensors"}


def test_verify_notices_another_router(grouped: Exported, tmp_path: Path) -> None:
    other = routed_model(tmp_path / "other", targets=TARGETS, kv_heads=4)
    bundle = export(other.path, tmp_path / "bundle", **ROUTED)
    router = (tmp_path / "bundle" / "router.safetensors").read_bytes()
    cut = len(router) // 2
    (tmp_path / "bundle" / "router.safetensors").write_bytes(router[:cut] + bytes(len(router) - cut))
    with pytest.raises(BundleError, match=r"router\.safetensors"):
        verify(bundle.path)
    with pytest.raises(VerificationError, match=r"budget r(75|50), routed"):
        verify_bundle(bundle)


def test_layouts_of_a_checkpoint_with_a_dynamic_router(grouped: Exported, tmp_path: Path) -> None:
    bundle = export(grouped.checkpoint.path, tmp_path / "all", verify=False)
    static = ("panels", "shared", "per-budget")
    assert bundle.layouts == {"fp32": (*static, "routed"), "fp16": (*static, "routed")}
    assert bundle.router == grouped.checkpoint.router().record  # type: ignore[union-attr]
    assert [b.name for b in bundle.budgets_of("panels")] == ["full", "tapered", "crossed", "small"]
    assert [b.name for b in bundle.budgets_of("routed")] == ["r100", "r75", "r50"]
    without = export(grouped.checkpoint.path, tmp_path / "without", layouts=["panels"], verify=False)
    assert without.router is None and "router.safetensors" not in without.files


def test_what_cannot_be_routed_is_refused_by_name(grouped: Exported, tmp_path: Path) -> None:
    plain = elastic_model(tmp_path / "plain")
    with pytest.raises(InputError, match=r"layout routed: .*has no router, it needs a dynamic one(.|\n)*route"):
        export(plain.path, tmp_path / "out", layouts=["routed"])
    assert not (tmp_path / "out").exists()


def test_a_damaged_router_record_is_refused(grouped: Exported, tmp_path: Path) -> None:
    def opened(**changes: Any) -> None:
        for name in grouped.bundle.files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes((grouped.bundle.path / name).read_bytes())
        manifest = json.loads((grouped.bundle.path / "manifest.json").read_text())
        manifest["router"] = {**manifest["router"], **changes}
        write_manifest(tmp_path, manifest)
        Bundle.open(tmp_path)

    opened()
    with pytest.raises(BundleError, match="no dynamic router"):
        opened(kind="static")
    with pytest.raises(BundleError, match="other candidates"):
        opened(candidates={"groups": [4], "neurons": [128]})
    with pytest.raises(BundleError, match=r"version 9(.|\n)*upgrade"):
        opened(version=9)


def test_the_runner_runs_a_target_by_name(grouped: Exported) -> None:
    with Runner(grouped.bundle, layout="routed", threads=1) as runner:
        assert runner.selection.budget.name == "r100"
        found = {
            name: list(runner.generate_ids([5, 6, 7], 12, selection=runner.select(budget=name), stop_on_eos=False))
            for name in ("r100", "r50", "r60.0")
        }
        with pytest.raises(InputError, match=r"from 0\.5 to 1 .*not for 0\.4"):
            runner.select(budget="r40")
        with pytest.raises(BundleError, match=r"'full' is no target(.|\n)*r100, r75, r50"):
            runner.select(budget="full")
    ids = np.array([[5, 6, 7, *found["r60.0"]]])
    expected, _ = in_torch(grouped, ids, 0.6)
    assert expected[0, 2:-1].argmax(-1).tolist() == found["r60.0"]
    assert len({tuple(tokens) for tokens in found.values()}) > 1


def test_targets_are_measured_and_selected_like_budgets(grouped: Exported, tmp_path: Path) -> None:
    bundle = export(grouped.checkpoint.path, tmp_path / "bundle", **ROUTED, verify=False)
    table = calibrate(bundle, layout="routed", threads=1, contexts=[16], prompt_lengths=[8], repeats=6)
    assert list(table.budgets) == ["r100", "r75", "r50"]
    with Runner(bundle, "10s", layout="routed", threads=1, calibration="never") as runner:
        assert isinstance(runner.selection.budget, RoutedBudget) and runner.selection.budget.target == 1
    costs = {
        name: BudgetCost(1, (Timing.of(16, [ms]),), (Timing.of(8, [ms]),), 1, 1)
        for name, ms in (("r100", 9.0), ("r75", 7.0), ("r50", 5.0))
    }
    chosen = LatencyTable(table.device, table.target, "routed", "fp32", table.bundle, costs)
    with Runner(bundle, layout="routed", threads=1, calibration=chosen) as runner:
        assert [runner.select(f"{ms}ms").budget.name for ms in (10, 8, 6)] == ["r100", "r75", "r50"]
