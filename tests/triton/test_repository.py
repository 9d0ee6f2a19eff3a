"""The model repository: complete, its configuration well-formed, and nothing of others overwritten."""

import re
import shutil

import pytest

from flextron_export.bundle.manifest import Bundle
from flextron_export.errors import BundleError, InputError
from flextron_export.triton.config import INPUTS, OUTPUTS
from flextron_export.triton.repository import triton

TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([A-Za-z_][\w.]*|-?[\d.]+)|([{}\[\]:,]))')


def parse(text):
    """Protobuf's text format, as far as a configuration needs it: name -> list of values, a message being a dict."""
    tokens, place = [], 0
    while place < len(text.rstrip()):
        found = TOKEN.match(text, place)
        assert found, text[place : place + 40]
        tokens.append(found.group(0).strip())
        place = found.end()

    def message(closing):
        fields = {}
        while tokens and tokens[0] != closing:
            name = tokens.pop(0)
            if tokens[0] == ":":
                tokens.pop(0)
            fields.setdefault(name, []).append(value())
        assert not closing or tokens.pop(0) == closing
        return fields

    def value():
        token = tokens.pop(0)
        if token == "{":
            return message("}")
        if token == "[":
            items = []
            while tokens[0] != "]":
                items.append(value())
                if tokens[0] == ",":
                    tokens.pop(0)
            tokens.pop(0)
            return items
        return token[1:-1] if token[0] == '"' else int(token) if token.lstrip("-").isdigit() else token

    return message(None)


@pytest.fixture
def written(pristine, tmp_path):
    return triton(pristine, tmp_path / "repository", name="tiny", threads=2, latency_target="20ms", parallel=3)


def test_the_configuration_says_what_triton_must_know(written):
    config = parse((written / "config.pbtxt").read_text())
    assert set(config) == {
        *("name", "backend", "max_batch_size", "model_transaction_policy"),
        *("input", "output", "instance_group", "parameters"),
    }
    assert (config["name"], config["backend"], config["max_batch_size"]) == (["tiny"], ["python"], [0])
    assert config["model_transaction_policy"] == [{"decoupled": ["true"]}]
    assert config["instance_group"] == [{"count": [1], "kind": ["KIND_CPU"]}]
    inputs = {i["name"][0]: (i["data_type"][0], i["dims"][0][0]) for i in config["input"]}
    assert inputs == INPUTS and all(i["optional"] == ["true"] for i in config["input"])
    assert [o["name"][0] for o in config["output"]] == list(OUTPUTS)
    parameters = {p["key"][0]: p["value"][0]["string_value"][0] for p in config["parameters"]}
    assert parameters == {
        "target": "onnxruntime-cpu",
        "layout": "panels",
        "dtype": "fp32",
        "threads": "2",
        "latency_target": "20ms",
        "parallel": "3",
    }


def test_the_bundle_in_it_is_whole_and_holds_nothing_else(pristine, tmp_path):
    source = shutil.copytree(pristine, tmp_path / "source")
    (source / "secret.txt").write_text("not part of the bundle")
    (source / "latency").mkdir()
    (source / "latency" / "device.json").write_text("{}")
    copy = triton(source, tmp_path / "repository") / "1" / "bundle"
    assert Bundle.open(copy).files == Bundle.open(pristine).files
    assert (copy / "latency" / "device.json").is_file() and not (copy / "secret.txt").exists()
    assert copy.parents[1].name == "source"


def test_only_a_model_that_was_written_here_is_replaced(pristine, written):
    repository = written.parent
    with pytest.raises(InputError, match="exists"):
        triton(pristine, repository, name="tiny")
    triton(pristine, repository, name="tiny", budget="p34", overwrite=True)
    assert "p34" in (written / "config.pbtxt").read_text()
    other = repository / "other"
    other.mkdir()
    (other / "config.pbtxt").write_text("")
    with pytest.raises(InputError, match="not written by this tool"):
        triton(pristine, repository, name="other", overwrite=True)
    assert (other / "config.pbtxt").read_text() == ""


@pytest.mark.parametrize(
    ("options", "kind", "part"),
    [
        ({"name": "../x"}, InputError, "name of a model"),
        ({"name": ""}, InputError, "name of a model"),
        ({"latency_target": "soon"}, InputError, "not a target"),
        ({"latency_target": "5ms", "budget": "p34"}, InputError, "latency target and a budget"),
        ({"budget": "p1"}, BundleError, "p34"),
        ({"layout": "other"}, BundleError, "other"),
        ({"parallel": 0}, InputError, "--parallel"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_written(pristine, tmp_path, options, kind, part):
    with pytest.raises(kind, match=part):
        triton(pristine, tmp_path / "repository", **options)
    assert not (tmp_path / "repository").exists() and not (tmp_path / "x").exists()
