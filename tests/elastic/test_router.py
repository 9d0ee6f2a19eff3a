"""The router in a checkpoint: encoding of targets, what opens, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.rewriting import with_budgets
from flextron_export.elastic.router import FILE, KINDS, Router, RouterRecord, encode, unit_rms
from flextron_export.elastic.safetensors import SafetensorsFile, TensorPlan, write_safetensors
from flextron_export.errors import CheckpointError, InputError

TARGETS = (1.0, 0.75, 0.5)


def test_a_trained_target_is_one_hot_and_others_blend_their_neighbours() -> None:
    np.testing.assert_array_equal(encode(TARGETS, 0.75), [0, 1, 0])
    np.testing.assert_allclose(encode(TARGETS, 0.9), [0.6, 0.4, 0], rtol=1e-6)
    np.testing.assert_allclose(encode(TARGETS, 0.5625), [0, 0.25, 0.75], rtol=1e-6)
    for target in (1.01, 0.49, float("nan")):
        with pytest.raises(InputError, match=r"targets from 0.5 to 1 of the full model's latency"):
            encode(TARGETS, target)


def add_router(checkpoint: ElasticCheckpoint, out: Path, kind: str) -> tuple[ElasticCheckpoint, dict[str, np.ndarray]]:
    record = RouterRecord(kind, "gumbel", TARGETS, 8, checkpoint.candidates, training={"tokens": 1})
    random = np.random.default_rng(0)
    tensors = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in record.shapes(checkpoint.architecture).items()
    }
    plans = {name: TensorPlan("F32", v.shape, lambda v=v: v) for name, v in tensors.items()}  # type: ignore[misc]
    opened = with_budgets(
        checkpoint,
        checkpoint.budgets,
        out,
        add=lambda d: write_safetensors(d / FILE, plans),  # type: ignore[arg-type, return-value]
        notes={"router": record.to_json()},
    )
    return opened, tensors


@pytest.mark.parametrize("kind", KINDS)
def test_a_router_is_read_as_it_was_written(tiny_checkpoint: Path, tmp_path: Path, kind: str) -> None:
    plain = ElasticCheckpoint.open(tiny_checkpoint)
    assert plain.router() is None
    opened, tensors = add_router(plain, tmp_path / "routed", kind)
    router = opened.router()
    assert router is not None and router.record.kind == kind and router.record.targets == TARGETS
    assert router.record.training == {"tokens": 1}
    assert all(np.array_equal(router.tensors[name], tensors[name]) for name in tensors)


def test_the_formula_is_two_linear_layers_with_a_leaky_relu(tiny_checkpoint: Path, tmp_path: Path) -> None:
    opened, t = add_router(ElasticCheckpoint.open(tiny_checkpoint), tmp_path / "routed", "dynamic")
    router = opened.router()
    assert isinstance(router, Router)
    x = np.random.default_rng(1).standard_normal((2, 3, opened.architecture.hidden_size)).astype(np.float32)
    name = "layers.1.ffn"
    for b in range(2):
        for s in range(3):
            hidden = [
                sum(t[f"{name}.target"][r] * [0, 0.5, 0.5]) + sum(t[f"{name}.input"][r] * x[b, s]) for r in range(8)
            ]
            by_hand = t[f"{name}.output"] @ [h if h > 0 else 0.1 * h for h in hidden]
            np.testing.assert_allclose(router.logits(name, 0.625, x)[b, s], by_hand, rtol=1e-4, atol=1e-5)


def test_a_prompt_router_lists_all_layers_and_does_not_see_the_size_of_embeddings(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    opened, _ = add_router(ElasticCheckpoint.open(tiny_checkpoint), tmp_path / "routed", "prompt")
    router = opened.router()
    assert router is not None
    x = np.random.default_rng(1).standard_normal(opened.architecture.hidden_size)
    layers, larger = router.layers(0.75, x), router.layers(0.75, 100 * x)
    assert len(layers) == opened.architecture.num_layers
    assert {part: len(row) for part, row in layers[0].items()} == {
        "attention": len(opened.candidates.groups),
        "ffn": len(opened.candidates.neurons),
    }
    flat = router.logits("prompt", 0.75, unit_rms(x))
    np.testing.assert_array_equal(np.concatenate([row[p] for row in layers for p in ("attention", "ffn")]), flat)
    np.testing.assert_allclose(larger[0]["ffn"], layers[0]["ffn"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="with a prompt"):
        router.layers(0.75)


def edit(path: Path, **changes: Any) -> None:
    marker = path / "elastic.json"
    value = json.loads(marker.read_text())
    value["router"] |= changes
    marker.write_text(json.dumps(value))


def other_tensors(path: Path) -> None:
    file = SafetensorsFile(path / FILE)
    plans = {n: TensorPlan("F32", (1, *t.shape), lambda n=n: file[n][None]) for n, t in file.tensors.items()}  # type: ignore[misc]
    plans["more"] = plans.pop("layers.0.ffn.output")
    write_safetensors(path / "other", plans)
    (path / "other").rename(path / FILE)
    marker = path / "elastic.json"
    value = json.loads(marker.read_text())
    value["weights"] = {}  # sizes are not what is tested here
    marker.write_text(json.dumps(value))


def unrecorded(path: Path) -> None:
    marker = path / "elastic.json"
    value = json.loads(marker.read_text())
    del value["weights"][FILE]
    marker.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: edit(p, kind="psychic"), "psychic"),
        (lambda p: edit(p, method="guess"), "guess"),
        (lambda p: edit(p, version=2), "version 2.*upgrade"),
        (lambda p: edit(p, version="1"), "version is '1'"),
        (lambda p: edit(p, targets=[0.75, 0.5]), "do not begin with 1"),
        (lambda p: edit(p, targets=[1, 0.5, 0.75]), "not positive and descending"),
        (lambda p: edit(p, targets=[1, "0.5"]), "targets are"),
        (lambda p: edit(p, targets=[1, float("nan")]), "not positive and descending"),
        (lambda p: edit(p, hidden_size=0), "hidden_size is 0"),
        (lambda p: edit(p, hidden_size=16), r"F32 \[8, 3\], not F32 \[16, 3\]"),
        (lambda p: edit(p, candidates={"groups": [4], "neurons": [128]}), "other widths"),
        (lambda p: (p / FILE).unlink(), "is missing"),
        (other_tensors, "layers.0.ffn.output is missing.*more does not belong there"),
        (unrecorded, "not among the files"),
    ],
)
def test_a_router_that_does_not_fit_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    opened, _ = add_router(ElasticCheckpoint.open(tiny_checkpoint), tmp_path / "whole", "static")
    path = Path(shutil.copytree(opened.path, tmp_path / "damaged"))
    damage(path)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        ElasticCheckpoint.open(path)
