"""An elastic checkpoint opens whole, or says what is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flextron_export.elastic.checkpoint import ElasticCheckpoint, ModelWeights, copy_tokenizer
from flextron_export.elastic.safetensors import SafetensorsFile, TensorPlan, write_safetensors
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.elastic.widths import full_budget
from flextron_export.errors import CheckpointError, UnsupportedModelError
from tests.random_bundle import random_checkpoint

INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of shards with an index."""
    return random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "whole")


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_elastify_wrote_is_read(tiny_checkpoint: Path) -> None:
    checkpoint = ElasticCheckpoint.open(tiny_checkpoint)
    assert checkpoint.budgets[0].name == "full"
    assert checkpoint.budget("full").layers == full_budget(checkpoint.architecture).layers
    assert set(checkpoint.parent["sha256"]) == {"model.safetensors"}
    assert all(spec.source in checkpoint.weights() for spec in tensor_specs(checkpoint.architecture))


def test_a_marker_is_read_as_it_was_written(checkpoint: Path) -> None:
    opened = ElasticCheckpoint.open(checkpoint)
    changed = replace(opened, budgets=opened.budgets[1:], files=opened.weights().records())
    changed.write_marker(checkpoint)
    assert ElasticCheckpoint.open(checkpoint) == changed


def test_an_unknown_budget_is_named_with_those_there_are(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no budget 'p99'(.|\n)*full, p75, p59, p34"):
        ElasticCheckpoint.open(checkpoint).budget("p99")


def test_a_path_that_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "absent", tmp_path / "file", tmp_path):
        with pytest.raises(CheckpointError, match="is not a model directory"):
            ElasticCheckpoint.open(path)
    (checkpoint / "elastic.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"is not elastic: it has no elastic\.json(.|\n)*flextron-export elastify"
    ):
        ElasticCheckpoint.open(checkpoint)


def test_another_architecture_is_refused(checkpoint: Path) -> None:
    edit(checkpoint / "config.json", model_type="opt", architectures=["OPTForCausalLM"])
    with pytest.raises(UnsupportedModelError, match="OPTForCausalLM"):
        ElasticCheckpoint.open(checkpoint)


def test_a_newer_schema_asks_for_an_upgrade(checkpoint: Path) -> None:
    edit(checkpoint / "elastic.json", schema=2)
    with pytest.raises(CheckpointError, match=r"has schema 2; this version reads up to 1(.|\n)*upgrade"):
        ElasticCheckpoint.open(checkpoint)


FULL = {"name": "full", "layers": [[4, 128], [4, 128]], "validation_loss": None}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "flextron-bundle"},
        {"schema": "1"},
        {"schema": None},
        {"schema": float("inf")},
        {"candidates": None},
        {"candidates": {"groups": [2, 4]}},
        {"candidates": {"groups": "24", "neurons": [64, 128]}},
        {"candidates": {"groups": [2.0, 4.0], "neurons": [64, 128]}},
        {"candidates": {"groups": [2, 4], "neurons": [64, 256]}},
        {"candidates": {"groups": [4, 2], "neurons": [64, 128]}},
        {"budgets": None},
        {"budgets": []},
        {"budgets": {"full": []}},
        {"budgets": [7]},
        {"budgets": [{**FULL, "name": 7}]},
        {"budgets": [{**FULL, "name": ["full"]}]},
        {"budgets": [{**FULL, "name": "../../etc"}]},
        {"budgets": [FULL, FULL]},
        {"budgets": [{**FULL, "layers": [[4, 128]]}]},
        {"budgets": [{**FULL, "layers": [[4, 128], [9, 128]]}]},
        {"budgets": [{**FULL, "layers": [[4, 128], [4]]}]},
        {"budgets": [{**FULL, "layers": [[4, 128], "44"]}]},
        {"budgets": [{**FULL, "validation_loss": "low"}]},
        {"parent": 7},
        {"sorting": "by hand"},
        {"training": [1, 2]},
        {"weights": 7},
        {"weights": {SHARD: 7}},
        {"weights": {SHARD: {"bytes": 7}}},
        {"weights": {SHARD: {"bytes": "7", "sha256": "00"}}},
        {"weights": {SHARD: {"bytes": 7, "sha256": 0}}},
        {"weights": {"../secret": {"bytes": 7, "sha256": "00"}}},
    ],
    ids=str,
)
def test_a_marker_with_wrong_values_is_refused(checkpoint: Path, change: dict[str, Any]) -> None:
    edit(checkpoint / "elastic.json", **change)
    with pytest.raises(CheckpointError, match=r"elastic\.json"):
        ElasticCheckpoint.open(checkpoint)


@pytest.mark.parametrize("key", ["format", "schema", "candidates", "budgets"])
def test_a_marker_without_a_field_is_refused(checkpoint: Path, key: str) -> None:
    value = json.loads((checkpoint / "elastic.json").read_text())
    del value[key]
    (checkpoint / "elastic.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match=rf"elastic\.json is damaged: KeyError '{key}'"):
        ElasticCheckpoint.open(checkpoint)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"elastic"', "[" * 100_000], ids=lambda t: repr(t[:9]))
def test_a_marker_that_is_no_object_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "elastic.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"elastic\.json is damaged"):
        ElasticCheckpoint.open(checkpoint)


def test_a_marker_cut_anywhere_is_refused(checkpoint: Path) -> None:
    marker = checkpoint / "elastic.json"
    text = marker.read_text().rstrip()
    for length in range(0, len(text), 7):
        marker.write_text(text[:length])
        with pytest.raises(CheckpointError):
            ElasticCheckpoint.open(checkpoint)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(["config.json", "elastic.json", INDEX]), data=st.data())
def test_changed_bytes_never_raise_anything_else(whole: Path, checkpoint: Path, file: str, data: st.DataObject) -> None:
    content = bytearray((whole / file).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from(b'019-.,:"[]{}eE \0\xff'))
    (checkpoint / file).write_bytes(content)
    with suppress(CheckpointError, UnsupportedModelError):
        ElasticCheckpoint.open(checkpoint).weights()
    shutil.copyfile(whole / file, checkpoint / file)


def pickle_instead(directory: Path) -> None:
    (directory / INDEX).unlink()
    (directory / SHARD).rename(directory / "pytorch_model.bin")


def no_weights(directory: Path) -> None:
    (directory / INDEX).unlink()


def missing_shard(directory: Path) -> None:
    (directory / SHARD).unlink()


def shards(name: Any) -> Callable[[Path], None]:
    return lambda directory: edit(directory / INDEX, weight_map={"model.norm.weight": name})


def truncated_shard(directory: Path) -> None:
    content = (directory / SHARD).read_bytes()
    (directory / SHARD).write_bytes(content[:-1])


def rewritten(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    """Damage that rewrites the weights as a valid file of other tensors."""

    def damage(directory: Path) -> None:
        file = SafetensorsFile(directory / SHARD)
        arrays = {name: file.read(name) for name in file.tensors}
        change(arrays)
        plans = {
            name: TensorPlan("I8" if a.dtype == np.int8 else "F32", a.shape, lambda a=a: a)  # type: ignore[misc]
            for name, a in arrays.items()
        }
        write_safetensors(directory / "model.safetensors", plans)

    return damage


NORM, DOWN, QUERY = "model.norm.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickle_instead, r"pickled weights \(pytorch_model\.bin\), which run code when loaded"),
        (no_weights, r"has no model\.safetensors"),
        (missing_shard, f"{SHARD} cannot be read"),
        (truncated_shard, f"{SHARD} cannot be read"),
        (shards("../secret.safetensors"), "is not a file name in this directory"),
        (shards("/etc/passwd"), "is not a file name in this directory"),
        (shards("sub/a.safetensors"), "is not a file name in this directory"),
        (shards(".."), "is not a file name in this directory"),
        (shards(""), "is not a file name in this directory"),
        (shards(7), "7 cannot be read"),
        (shards(["a"]), "cannot be read"),
        (lambda d: edit(d / INDEX, weight_map=[]), "no weight_map"),
        (lambda d: edit(d / INDEX, weight_map={}), "no weight_map"),
        (lambda d: (d / INDEX).write_text("{"), "index.json is damaged"),
        (rewritten(lambda a: a.pop(NORM)), f"{NORM} is missing"),
        (rewritten(lambda a: a.update({DOWN: a[DOWN].T})), rf"{DOWN} is \[128, 64\], config.json says \[64, 128\]"),
        (rewritten(lambda a: a.update({QUERY: a[QUERY].astype(np.int8)})), f"{QUERY} is I8, not F32"),
        (rewritten(lambda a: [a.pop(n) for n in list(a)[:9]]), "and 4 more"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(
    checkpoint: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        ElasticCheckpoint.open(checkpoint).weights()


@pytest.fixture
def recorded(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy, to damage, of what elastify wrote."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "recorded"))


def test_a_flipped_byte_is_found_by_the_name_of_its_file(recorded: Path) -> None:
    ElasticCheckpoint.open(recorded).check_files()
    content = bytearray((recorded / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (recorded / "model.safetensors").write_bytes(content)
    opened = ElasticCheckpoint.open(recorded)
    opened.check_files(hashes=False)
    with pytest.raises(CheckpointError, match=r"model\.safetensors was altered"):
        opened.check_files(hashes=True)


def test_missing_weights_and_weights_of_another_size_do_not_open(recorded: Path) -> None:
    size = (recorded / "model.safetensors").stat().st_size
    with (recorded / "model.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors has {size + 1} bytes instead of {size}"):
        ElasticCheckpoint.open(recorded)
    (recorded / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        ElasticCheckpoint.open(recorded)


def test_weights_put_beside_the_recorded_ones_are_refused(checkpoint: Path) -> None:
    opened = ElasticCheckpoint.open(checkpoint)
    replace(opened, files=opened.weights().records()).write_marker(checkpoint)
    shutil.copyfile(checkpoint / SHARD, checkpoint / "model.safetensors")  # read in place of the shards
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not among the weights"):
        ElasticCheckpoint.open(checkpoint).weights()


def test_a_checkpoint_without_records_is_accepted(recorded: Path) -> None:
    value = json.loads((recorded / "elastic.json").read_text())
    del value["weights"]
    (recorded / "elastic.json").write_text(json.dumps(value))
    opened = ElasticCheckpoint.open(recorded)
    opened.check_files()
    assert opened.files == {} and opened.weights().files


def test_shards_and_one_file_hold_the_same(whole: Path, checkpoint: Path) -> None:
    rewritten(lambda a: None)(checkpoint)
    (checkpoint / INDEX).unlink()
    sharded, single = ModelWeights(whole), ModelWeights(checkpoint)
    for spec in tensor_specs(ElasticCheckpoint.open(whole).architecture):
        np.testing.assert_array_equal(sharded[spec.source], single.read(spec.source))


def test_tokenizer_files_are_copied_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    (checkpoint / "notes.txt").write_text("private")
    (tmp_path / "out").mkdir()
    copied = copy_tokenizer(checkpoint, tmp_path / "out")
    assert sorted(copied) == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert {"tokenizer.json", "chat_template.jinja"} <= set(copied)
    assert not {"notes.txt", "config.json", SHARD} & set(copied)
