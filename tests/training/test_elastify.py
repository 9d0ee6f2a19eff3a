"""From a Hugging Face directory to an elastic checkpoint."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.elastic.model import load_model
from flextron_export.elastic.records import FileRecord
from flextron_export.elastic.safetensors import SafetensorsFile, TensorPlan, write_safetensors
from flextron_export.elastic.widths import Budget, LayerWidth
from flextron_export.errors import CheckpointError, FlextronError, InputError, UnsupportedModelError
from flextron_export.files import sha256
from flextron_export.training.corpus import read_text, split
from flextron_export.training.data import load_tokenizer, pack, spread
from flextron_export.training.elastify import elastify, sort_
from flextron_export.training.environment import thread_count
from flextron_export.training.evaluate import validation_loss
from flextron_export.training.importance import measure_importance
from flextron_export.training.tiny import tiny_model
from flextron_export.training.work import work_directory

QUICK: dict[str, Any] = {"tokens": 0, "length": 32, "progress": False, "threads": 1}


def content(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): sha256(p) for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture
def model_copy(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_checkpoint_has_measured_budgets_widest_first(tiny_checkpoint: Path) -> None:
    checkpoint = ElasticCheckpoint.open(tiny_checkpoint)
    assert checkpoint.budgets[0].name == "full"
    parameters = [b.parameters(checkpoint.architecture) for b in checkpoint.budgets]
    assert parameters == sorted(parameters, reverse=True) and len(parameters) > 2
    assert all(b.validation_loss is not None and 0 < b.validation_loss < 20 for b in checkpoint.budgets)
    assert checkpoint.training == {} and checkpoint.parent["path"] == "model"


@pytest.mark.parametrize("options", [{}, {"kv_heads": 8, "tied": False, "bias": True}], ids=["grouped", "multi-head"])
def test_transformers_loads_it_as_the_full_model(tmp_path: Path, tiny_text: Path, options: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tiny_model(tmp_path / "model", **options)
    out = elastify(model, [tiny_text], tmp_path / "out", **QUICK).path
    ids = torch.arange(1, 33).reshape(2, 16)
    with torch.no_grad():
        before, after = (AutoModelForCausalLM.from_pretrained(d)(ids).logits for d in (model, out))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("the king").input_ids) == "the king"


def test_units_are_sorted(tiny_model_dir: Path) -> None:
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(tiny_model_dir)
    architecture = Architecture.from_config(read_config(tiny_model_dir))
    tokens = np.random.default_rng(0).integers(0, 260, (8, 32))
    sort_(model, architecture, tokens)
    importance = measure_importance(model, architecture, tokens)
    for values in (importance.groups, importance.neurons):
        assert (np.diff(values) <= 1e-4 * values.max()).all()


def test_training_is_recorded_and_repeatable(tiny_model_dir: Path, tiny_text: Path, tmp_path: Path) -> None:
    def run(name: str) -> ElasticCheckpoint:
        return elastify(tiny_model_dir, [tiny_text], tmp_path / name, **{**QUICK, "tokens": 1024, "batch": 4})

    one, two = run("one"), run("two")
    assert content(one.path) == content(two.path)
    assert one.training["tokens"] == 1024 and one.training["loss"] == "mix"


def test_weights_keep_their_type_unless_told_otherwise(model_copy: Path, tiny_text: Path, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    LlamaForCausalLM.from_pretrained(model_copy, dtype=torch.bfloat16).save_pretrained(model_copy)
    for dtype, expected in (("auto", "BF16"), ("float32", "F32")):
        checkpoint = elastify(model_copy, [tiny_text], tmp_path / dtype, dtype=dtype, **QUICK)
        assert {t.dtype for t in checkpoint.weights().files[0].tensors.values()} == {expected}
        assert read_config(checkpoint.path)["dtype"] == ("bfloat16" if expected == "BF16" else "float32")


def test_losses_of_16_bit_weights_are_those_of_the_checkpoint_read_back(
    tiny_model_dir: Path, tiny_text: Path, tmp_path: Path
) -> None:
    checkpoint = elastify(tiny_model_dir, [tiny_text], tmp_path / "out", dtype="bfloat16", **QUICK)
    model, architecture = load_model(checkpoint.path), checkpoint.architecture
    _, held_out = split(read_text([tiny_text]))
    tokens = spread(pack(held_out, load_tokenizer(tiny_model_dir), 32, architecture.vocab_size, 0), 256)
    with thread_count(1):
        losses = [validation_loss(model, architecture, b, tokens) for b in checkpoint.budgets]
    # Rounding the rotary frequencies too would change them by more than 1e-5.
    assert [b.validation_loss for b in checkpoint.budgets] == pytest.approx(losses, abs=1e-7)


def test_the_embedding_may_lie_in_any_shard(model_copy: Path, tiny_text: Path, tmp_path: Path) -> None:
    whole = SafetensorsFile(model_copy / "model.safetensors")
    shards: dict[str, list[str]] = {"a.safetensors": [], "b.safetensors": []}
    for name in whole.tensors:
        shards["b.safetensors" if "embed" in name else "a.safetensors"].append(name)
    for file, names in shards.items():
        plans = {n: TensorPlan("F32", whole[n].shape, lambda n=n: whole[n]) for n in names}  # type: ignore[misc]
        write_safetensors(model_copy / file, plans)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (model_copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (model_copy / "model.safetensors").unlink()
    checkpoint = elastify(model_copy, [tiny_text], tmp_path / "out", **QUICK)
    assert set(checkpoint.parent["sha256"]) == set(shards)
    assert checkpoint.weights().info("model.embed_tokens.weight").dtype == "F32"


def test_the_files_of_the_weights_are_recorded(tiny_checkpoint: Path) -> None:
    checkpoint = ElasticCheckpoint.open(tiny_checkpoint)
    file = tiny_checkpoint / "model.safetensors"
    assert checkpoint.files == {file.name: FileRecord(file.stat().st_size, sha256(file))}


def test_budgets_may_have_other_widths_in_every_layer(tiny_model_dir: Path, tiny_text: Path, tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    file.write_text('[{"name": "mixed", "layers": [[4, 32], [2, 128]]}]')
    checkpoint = elastify(tiny_model_dir, [tiny_text], tmp_path / "out", budgets=file, **QUICK)
    assert [b.name for b in checkpoint.budgets] == ["mixed"]
    assert checkpoint.budget("mixed").layers == (LayerWidth(4, 32), LayerWidth(2, 128))
    with pytest.raises(InputError, match="5 groups, 32 neurons are not among the candidates"):
        wide = Budget("wide", (LayerWidth(5, 32),) * 2)
        elastify(tiny_model_dir, [tiny_text], tmp_path / "refused", budgets=[wide], **QUICK)


@pytest.mark.parametrize(
    "text",
    ["", "{", "7", "[{}]", "[7]", "[[]]", '[{"name": "a", "layers": [[1e400, 4]]}]', "[" * 100_000, "\udcff"],
    ids=lambda t: repr(t[:9]),
)
def test_budgets_that_cannot_be_read_are_refused(
    tiny_model_dir: Path, tiny_text: Path, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "budgets.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"budgets in .*budgets\.json cannot be read"):
        elastify(tiny_model_dir, [tiny_text], tmp_path / "refused", budgets=file, **QUICK)


def remove_config(d: Path) -> None:
    (d / "config.json").unlink()


def remove_tokenizer(d: Path) -> None:
    (d / "tokenizer.json").unlink()


def pickle_weights(d: Path) -> None:
    (d / "model.safetensors").rename(d / "pytorch_model.bin")


def other_architecture(d: Path) -> None:
    edit_config(d, model_type="mamba", architectures=["MambaForCausalLM"])


def truncate_weights(d: Path) -> None:
    os.truncate(d / "model.safetensors", 5000)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (remove_config, CheckpointError, "not a model directory"),
        (remove_tokenizer, CheckpointError, "tokenizer.json"),
        (pickle_weights, CheckpointError, "pickled weights"),
        (other_architecture, UnsupportedModelError, "MambaForCausalLM"),
        (truncate_weights, CheckpointError, "cannot be read as safetensors"),
        (lambda d: edit_config(d, intermediate_size=64), CheckpointError, "do not fit its config.json"),
    ],
    ids=["no model", "no tokenizer", "pickle", "architecture", "truncated", "another config"],
)
def test_models_that_cannot_be_used_are_refused(
    model_copy: Path,
    tiny_text: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    error: type[Exception],
    message: str,
) -> None:
    damage(model_copy)
    with pytest.raises(error, match=message):
        elastify(model_copy, [tiny_text], tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_texts_that_cannot_be_used_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one document\n\nand another")
    with pytest.raises(InputError, match="too short"):
        elastify(tiny_model_dir, [text], tmp_path / "out", **QUICK)
    text.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="not UTF-8 text"):
        elastify(tiny_model_dir, [text], tmp_path / "out", **QUICK)


def test_weights_that_are_no_numbers_are_refused(model_copy: Path, tiny_text: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(model_copy)
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(model_copy)
    with pytest.raises(FlextronError, match="weights are not finite"):
        elastify(model_copy, [tiny_text], tmp_path / "out", **QUICK)


def test_a_loss_that_is_no_number_at_the_end_leaves_the_old_checkpoint(tiny_text: Path, tmp_path: Path) -> None:
    # Layer norms do not bound what weights this large compute in 16 bits.
    model, out = tiny_model(tmp_path / "gpt2", family="gpt2"), tmp_path / "out"
    elastify(model, [tiny_text], out, **QUICK)
    before = content(out)
    options = {**QUICK, "tokens": 64, "batch": 2, "optimizer": "adamw", "learning_rate": 1e6, "dtype": "float16"}
    with pytest.raises(FlextronError, match=r"not written: the validation loss of full is nan(.|\n)*--dtype"):
        elastify(model, [tiny_text], out, overwrite=True, **options)
    assert content(out) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gpt2", "out", "out.work"], "to write it with another --dtype"


def test_sorting_that_changes_the_function_is_noticed(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    def half(model: Any, *_: Any) -> None:
        model.model.layers[0].mlp.down_proj.weight.data *= 0.5

    monkeypatch.setattr("flextron_export.training.elastify.permute_", half)
    architecture = Architecture.from_config(read_config(tiny_model_dir))
    with pytest.raises(FlextronError, match="Sorting changed what the model computes"):
        sort_(LlamaForCausalLM.from_pretrained(tiny_model_dir), architecture, np.arange(64).reshape(2, 32))


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["disk full", "killed"]
)
def test_a_failure_while_writing_leaves_the_old_checkpoint_whole(
    tiny_checkpoint: Path,
    tiny_model_dir: Path,
    tiny_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
) -> None:
    from transformers import LlamaForCausalLM

    out = Path(shutil.copytree(tiny_checkpoint, tmp_path / "out"))
    before = content(tmp_path)

    def save(self: Any, directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise failure

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", save)
    expected = InputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as error:
        elastify(tiny_model_dir, [tiny_text], out, overwrite=True, **QUICK)
    if expected is InputError:
        assert "disk is full" in str(error.value)
    assert content(tmp_path) == before, "something was left behind"


def test_an_existing_directory_is_replaced_only_when_asked(
    tiny_checkpoint: Path, tiny_model_dir: Path, tiny_text: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(tiny_checkpoint, tmp_path / "out"))
    with pytest.raises(InputError, match="--overwrite"):
        elastify(tiny_model_dir, [tiny_text], out, **QUICK)
    (out / "stale").touch()
    elastify(tiny_model_dir, [tiny_text], out, overwrite=True, **QUICK)
    assert not (out / "stale").exists()
    with pytest.raises(InputError, match="not written by this tool"):
        elastify(tiny_model_dir, [tiny_text], tiny_model_dir, overwrite=True, **QUICK)


def test_what_could_not_be_used_later_is_refused_at_once(tiny_model_dir: Path, tiny_text: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for options, message in (
        ({"length": 257}, "257 tokens is too long: the model has 256 positions"),
        ({"tensorboard": tmp_path / "file" / "events"}, "events cannot be written"),
        ({"report": tmp_path / "file" / "report.png"}, "report.png cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            elastify(tiny_model_dir, [tiny_text], tmp_path / "out", **{**QUICK, **options})
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_refused_at_once(
    tiny_model_dir: Path, tiny_text: Path, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(400)
    with pytest.raises(InputError, match=r"too full for .*out: 0\.5 MB are needed, 0\.4 MB are free"):
        elastify(tiny_model_dir, [tiny_text], disk / "out", **QUICK)
    assert not list(disk.iterdir())


def test_stopping_says_how_to_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    work = tmp_path / "out.work"
    with pytest.raises(KeyboardInterrupt), work_directory(work, keep=False):
        raise KeyboardInterrupt
    assert not work.exists() and not caplog.messages
    with pytest.raises(KeyboardInterrupt), work_directory(work, keep=False):
        (work / "step-000000004").mkdir()
        (work / "step-000000004" / "state.json").write_text("{}")
        raise KeyboardInterrupt
    assert caplog.messages == [f"stopped; with --resume it goes on from {work / 'step-000000004'}"]
