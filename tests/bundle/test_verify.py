"""Verification finds a graph, a weights file or a checkpoint that is not the right one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.rope import Rope
from flextron_export.errors import BundleError, InputError, VerificationError
from flextron_export.exporting import export
from flextron_export.files import sha256
from flextron_export.graph import decoder
from flextron_export.targets.verify import verify, verify_bundle
from tests.elastic_models import elastic_model
from tests.random_bundle import write_manifest

Build = Callable[..., ir.Model]


def other_architecture(**changes: Any) -> Callable[[Build], Build]:
    def wrong(build: Build) -> Build:
        return lambda layout, dtype, architecture, *rest: build(
            layout, dtype, dataclasses.replace(architecture, **changes), *rest
        )

    return wrong


def swapped(a: str, b: str) -> Callable[[Build], Build]:
    """The graph refers to the bytes of one tensor where it means another."""

    def wrong(build: Build) -> Build:
        def swap(layout: str, dtype: str, architecture: Any, candidates: Any, weights: Any, *rest: Any) -> ir.Model:
            weights.tensors[a], weights.tensors[b] = weights.tensors[b], weights.tensors[a]
            return build(layout, dtype, architecture, candidates, weights, *rest)

        return swap

    return wrong


def mask_of_itself(build: Build) -> Build:
    """Every token sees itself only."""

    def wrong(*arguments: Any) -> ir.Model:
        model = build(*arguments)
        for node in model.graph.all_nodes():
            if node.op_type == "GroupQueryAttention":
                node.attributes["local_window_size"] = ir.AttrInt64("local_window_size", 1)
        return model

    return wrong


@pytest.mark.parametrize("layout", ["panels", "per-budget"])
@pytest.mark.parametrize(
    "wrong",
    [
        other_architecture(norm_eps=0.1),
        other_architecture(rope=Rope(9000.0)),
        swapped("layers.1.k", "layers.1.v"),
        swapped("layers.0.gate", "layers.1.gate"),
        swapped("layers.0.ffn_norm", "layers.0.attention_norm"),
        mask_of_itself,
    ],
    ids=["epsilon", "rope", "k and v", "layers", "norms", "mask"],
)
def test_a_wrong_graph_is_found_and_no_bundle_appears(
    checkpoint: ElasticCheckpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    wrong: Callable[[Build], Build],
) -> None:
    monkeypatch.setattr(decoder, "build_graph", wrong(decoder.build_graph))
    with pytest.raises(VerificationError, match=rf"of 6 checks failed; the worst: budget full, {layout} fp32"):
        export(checkpoint.path, tmp_path / "out", layouts=[layout], dtypes=["fp32"], budgets=["full"])
    assert list(tmp_path.iterdir()) == []


def test_both_references_accept_a_right_bundle_and_report_every_check(
    whole: Bundle, checkpoint: ElasticCheckpoint
) -> None:
    for checks in (verify(whole.path), verify(whole.path, checkpoint=checkpoint.path)):
        assert len(checks) == 2 * 3 * 4 * 6  # precisions, layouts, budgets, modes with both batch sizes
        assert all(c.passed and c.to_json()["passed"] for c in checks)
        assert max(c.difference for c in checks if c.dtype == "fp32") < 1e-5
        assert max(c.difference for c in checks if c.dtype == "fp16") > 1e-5, "fp16 really computes in fp16"


def test_altered_weights_with_a_matching_hash_do_not_pass(bundle: Path) -> None:
    name = "weights.fp32.safetensors"
    opened = Bundle.open(bundle)
    start = opened.weights("fp32").tensors["layers.1.up"].offset
    content = bytearray((bundle / name).read_bytes())
    content[start : start + 40_000] = bytes(40_000)
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was altered"):
        verify(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name]["sha256"] = sha256(bundle / name)
    write_manifest(bundle, manifest)
    with pytest.raises(VerificationError, match=r"fp32(.|\n)*do not ship this bundle"):
        verify(bundle)


def test_one_wrong_budget_among_right_ones_is_named(whole: Bundle) -> None:
    from flextron_export.bundle.golden import read_golden

    one = dataclasses.replace(whole, layouts={"fp32": ("panels",)})
    expected = read_golden(one, "fp32")
    wrong = expected["crossed"].logits.copy()
    wrong[-1, -1, 0] += 3e-4 * expected["crossed"].scale
    expected["crossed"] = dataclasses.replace(expected["crossed"], logits=wrong)
    with pytest.raises(VerificationError, match=r"6 of 24 checks failed; the worst: budget crossed, panels fp32"):
        verify_bundle(one, {"fp32": expected})


def test_a_nan_does_not_pass(whole: Bundle) -> None:
    from flextron_export.bundle.golden import read_golden

    one = dataclasses.replace(whole, layouts={"fp32": ("panels",)})
    expected = read_golden(one, "fp32")
    wrong = np.full_like(expected["small"].logits, np.nan)
    expected["small"] = dataclasses.replace(expected["small"], logits=wrong)
    with pytest.raises(VerificationError, match="budget small"):
        verify_bundle(one, {"fp32": expected})


def test_another_checkpoint_is_refused(whole: Bundle, tmp_path: Path) -> None:
    other = elastic_model(tmp_path / "other", kv_heads=8)
    with pytest.raises(InputError, match=r"is not the checkpoint that .* was exported from"):
        verify(whole.path, checkpoint=other.path)


def test_other_weights_under_the_same_marker_are_found(whole: Bundle, tmp_path: Path) -> None:
    other = elastic_model(tmp_path / "other", seed=1)
    shutil.copyfile(Path(other.path) / "elastic.json", tmp_path / "elastic.json")
    assert sha256(tmp_path / "elastic.json") == whole.source["checkpoint_sha256"]
    with pytest.raises(VerificationError):
        verify(whole.path, checkpoint=other.path)
