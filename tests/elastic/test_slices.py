"""Slicing tables of public nested models: what becomes a budget, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flextron_export.elastic.architecture import Architecture
from flextron_export.elastic.slices import Slice, budget_name, budgets_of_slices, read_slices
from flextron_export.elastic.widths import LayerWidth
from flextron_export.errors import InputError, UnsupportedModelError

GEMMA = """name,# Layers,# Effective Params (B),MMLU PT accuracy,FFN Hidden Dims,Layers Skipped
Main model,3,3.98,62.30%,"[2_048 * 8, 2_048 * 8, 2_048 * 8]",
Config for E2B (block-level),2,1.91,50.90%,"[2_048 * 4, 2_048 * 4]","[1]"
Config for E2.54B (layer-level),3,2.54,55.40%,"[2_048 * 4, 2_048 * 8, 2_048 * 4]",null
"""
"""The form of huggingface.co/datasets/google/gemma3n-slicing-configs, with 3 layers in place of 35."""


def architecture(layers: int = 3, neurons: int = 16384) -> Architecture:
    return Architecture.from_config(
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "intermediate_size": neurons,
            "vocab_size": 257,
        }
    )


def table(tmp_path: Path, text: str, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_table_of_gemma_3n_is_read_as_it_is_published(tmp_path: Path) -> None:
    main, e2b, mixed = read_slices(table(tmp_path, GEMMA))
    assert main == Slice("Main model", (16384,) * 3)
    assert e2b == Slice("Config for E2B (block-level)", (8192, 8192), skipped=(1,))
    assert mixed == Slice("Config for E2.54B (layer-level)", (8192, 16384, 8192))


def test_slices_become_budgets_and_their_widths_candidates(tmp_path: Path) -> None:
    slices = read_slices(table(tmp_path, GEMMA))
    candidates, budgets = budgets_of_slices(slices, architecture(), ["Main model", "Config for E2.54B (layer-level)"])
    assert (candidates.groups, candidates.neurons) == ((4,), (8192, 16384))
    assert [b.name for b in budgets] == ["full", "Config-for-E2.54B-layer-level"]
    assert budgets[1].layers == (LayerWidth(4, 8192), LayerWidth(4, 16384), LayerWidth(4, 8192))


def test_slices_that_leave_out_layers_are_refused_with_those_that_do_not(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        budgets_of_slices(read_slices(table(tmp_path, GEMMA)), architecture())
    assert "Config for E2B (block-level): it leaves out layers 1" in str(error.value)
    assert '--slice "Main model" --slice "Config for E2.54B (layer-level)"' in str(error.value)


def test_json_may_narrow_groups_too(tmp_path: Path) -> None:
    rows = [{"name": "half", "neurons": [64, 32, 64], "groups": [4, 2, 4], "hidden_size": 64, "skipped_layers": []}]
    slices = read_slices(table(tmp_path, json.dumps(rows), "table.json"))
    candidates, budgets = budgets_of_slices(slices, architecture(neurons=64))
    assert (candidates.groups, candidates.neurons) == ((2, 4), (32, 64))
    assert budgets[1].layers[1] == LayerWidth(2, 32)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"neurons": [64, 64]}, "it has neurons of 2 layers, the model has 3 layers"),
        ({"neurons": [64, 65, 64]}, "it has 65 neurons, the model's layers have 1 to 64"),
        ({"neurons": [64, 0, 64]}, "it has 0 neurons"),
        ({"neurons": [64] * 3, "groups": [5, 4, 4]}, "it has 5 groups"),
        ({"neurons": [64] * 3, "hidden_size": 48}, "its hidden size is 48, the model's is 64"),
        ({"neurons": [64], "skipped_layers": [0, 2]}, "it leaves out layers 0, 2"),
    ],
)
def test_what_is_no_budget_is_refused_by_name(tmp_path: Path, row: dict[str, object], reason: str) -> None:
    slices = read_slices(table(tmp_path, json.dumps([{"name": "odd", **row}]), "t.json"))
    with pytest.raises(InputError, match=f"odd: {reason}"):
        budgets_of_slices(slices, architecture(neurons=64))


def test_too_few_query_heads_and_names_that_clash_are_refused(tmp_path: Path) -> None:
    thin = Slice("thin", (64,) * 3, (1, 4, 4))
    with pytest.raises(InputError, match="keeps 2 query heads, at least 4"):
        budgets_of_slices([thin], architecture(neurons=64))
    with pytest.raises(InputError, match="the name 'a-b' is used twice"):
        budgets_of_slices([Slice("a b", (32,) * 3), Slice("a(b", (16,) * 3)], architecture(neurons=64))
    with pytest.raises(InputError, match=r"(?s)no slice 'nothing'.*use one of: thin"):
        budgets_of_slices([thin], architecture(neurons=64), ["nothing"])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "", "no column"),
        ("t.csv", "name,size\na,1\n", "no column 'ffn hidden dims'"),
        ("t.csv", "name,FFN Hidden Dims\n", "has no slices"),
        ("t.csv", 'name,FFN Hidden Dims\na,"[1, __import__]"\n', r"entry 1 \('a'\): '\[1, __import__\]' is no list"),
        ("t.csv", 'name,FFN Hidden Dims\na,"[2**9]"\n', "no slicing table"),
        ("t.csv", 'name,FFN Hidden Dims\n,"[2]"\n', "it has no name"),
        ("t.csv", "name,FFN Hidden Dims\na,\n", "it has no neurons"),
        ("t.csv", 'name,FFN Hidden Dims\n"a', "no slicing table"),
        ("t.json", "{}", "no list of objects"),
        ("t.json", "[" * 100_000, "no slicing table"),
        ("t.json", '[{"name": "a", "neurons": [1.5]}]', "no list of integers"),
        ("t.json", '[{"name": "a", "widths": [1]}]', "unknown key 'widths'"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_slices(table(tmp_path, text, name))


def test_a_missing_or_binary_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "t.csv", tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_slices(path)


def test_names_become_names_of_budgets() -> None:
    assert budget_name("Config for E1.96B (layer-level)") == "Config-for-E1.96B-layer-level"
    assert budget_name("Größe") == "Gr-e" and budget_name("(é)") == "slice"


def test_gemma_3n_and_nemotron_elastic_are_refused_with_what_they_have() -> None:
    transformers = pytest.importorskip("transformers")
    gemma = {**transformers.Gemma3nTextConfig().to_dict(), "architectures": ["Gemma3nForCausalLM"]}
    with pytest.raises(UnsupportedModelError) as error:
        Architecture.from_config(gemma)
    for words in ("AltUp", "altup_num_inputs 4", "laurel_rank 64", "per-layer embeddings", "num_kv_shared_layers 15"):
        assert words in str(error.value)
    with pytest.raises(UnsupportedModelError, match="AltUp"):
        Architecture.from_config({"model_type": "gemma3n", "architectures": ["Gemma3nForConditionalGeneration"],
                                  "text_config": gemma})  # fmt: skip
    nemotron = {**transformers.NemotronHConfig().to_dict(), "architectures": ["NemotronHForCausalLM"]}
    with pytest.raises(UnsupportedModelError, match=r"Nemotron-Elastic is built, .*Mamba-2"):
        Architecture.from_config(nemotron)
