"""A bundle opens if it is whole and of this version; anything else is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flextron_export.bundle.manifest import Bundle, weights_file
from flextron_export.elastic.tensors import tensor_specs
from flextron_export.errors import BundleError
from flextron_export.files import sha256
from tests.random_bundle import write_manifest

WEIGHTS = weights_file("fp32")


def manifest(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_text())


def edit(bundle: Path, **changes: Any) -> None:
    write_manifest(bundle, {**manifest(bundle), **changes})


def test_a_whole_bundle_opens(whole: Bundle) -> None:
    opened = Bundle.open(whole.path)
    assert opened == whole
    assert opened.dtypes == ("fp32", "fp16")
    assert opened.budget("tapered").layers[1].groups == 3


def test_a_bundle_is_opened_by_a_dot_inside_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle)
    assert Bundle.open(".").dtypes == ("fp32", "fp16")


def test_weights_are_mapped_in_prefix_layout(whole: Bundle) -> None:
    for dtype, name in (("fp32", "float32"), ("fp16", "float16")):
        weights = whole.weights(dtype)
        assert list(weights.tensors) == [s.name for s in tensor_specs(whole.architecture)]
        for spec in tensor_specs(whole.architecture):
            assert (weights[spec.name].shape, weights[spec.name].dtype.name) == (spec.shape, name)
            assert weights.tensors[spec.name].offset % 64 == 0


def test_a_path_that_is_no_bundle_is_refused(tmp_path: Path, checkpoint: Any) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "file", checkpoint.path):
        with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json"):
            Bundle.open(path)


def test_a_flipped_bit_in_any_file_is_found(bundle: Path) -> None:
    names = manifest(bundle)["files"]
    assert set(names) == {
        p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file() and p.stem != "manifest"
    }
    for name in names:
        content = (bundle / name).read_bytes()
        middle = len(content) // 2
        (bundle / name).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises(BundleError) as caught:
            Bundle.open(bundle)
        assert f"{name} was altered (its SHA-256 differs)" in str(caught.value)
        (bundle / name).write_bytes(content)
    Bundle.open(bundle)


def test_a_manifest_that_was_changed_where_nothing_else_tells_is_found(bundle: Path) -> None:
    marker, seal_file = bundle / "manifest.json", bundle / "manifest.sha256"
    text, sealed = marker.read_text(), seal_file.read_text()
    assert sealed == f"{sha256(marker)}  manifest.json\n"  # what `sha256sum -c` reads
    for changed in (text.replace('"flextron_export ', '"flextron_exporT '), text.rstrip("\n"), text + " "):
        assert changed != text
        marker.write_text(changed)
        with pytest.raises(BundleError, match=r"manifest\.json was altered"):
            Bundle.open(bundle)
        Bundle.open(bundle, hashes=False)
    marker.write_text(text)
    for damaged in (b"", b"\xff", sealed.encode().upper(), sealed.encode() * 2):
        seal_file.write_bytes(damaged)
        with pytest.raises(BundleError, match=r"manifest\.(json was altered|sha256 is missing)"):
            Bundle.open(bundle)
    seal_file.unlink()
    with pytest.raises(BundleError, match=r"manifest\.sha256 is missing"):
        Bundle.open(bundle)


@pytest.mark.parametrize("hashes", [True, False])
def test_missing_and_truncated_files_are_all_named_at_once_even_without_hashes(bundle: Path, hashes: bool) -> None:
    (bundle / "graphs/shared.fp16.onnx").unlink()
    size = (bundle / WEIGHTS).stat().st_size
    os.truncate(bundle / WEIGHTS, size - 1)
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle, hashes=hashes)
    assert "graphs/shared.fp16.onnx is missing" in str(caught.value)
    assert f"{WEIGHTS} has {size - 1} bytes instead of {size}" in str(caught.value)


def test_a_newer_version_asks_for_an_upgrade(bundle: Path) -> None:
    edit(bundle, version=2, budgets="in a form of the future")
    with pytest.raises(BundleError, match=r"has version 2; this flextron_export reads up to 1\.(.|\n)*upgrade"):
        Bundle.open(bundle)


def test_what_was_not_exported_is_named_with_what_was(whole: Bundle) -> None:
    with pytest.raises(BundleError, match=r"budget 'p99' was not exported\.(.|\n)*full, tapered, crossed, small"):
        whole.budget("p99")
    with pytest.raises(BundleError, match=r"no routed graph in fp32\.(.|\n)*fp32: panels, shared, per-budget"):
        whole.graph("routed", "fp32")
    with pytest.raises(BundleError, match="no int4 weights"):
        whole.weights("int4")


def set_file(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}})


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(value: dict[str, Any]) -> None:
        at: Any = value
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_file("../outside"), "'../outside' leaves the bundle"),
        (set_file("a/../../outside"), "leaves the bundle"),
        (set_file("/etc/passwd"), "'/etc/passwd' leaves the bundle"),
        (set_file("..\\outside"), "leaves the bundle"),
        (set_file(""), "'' leaves the bundle"),
        (set_file("."), "'.' leaves the bundle"),
        (set_file("a\0b"), "is missing"),
        (set_file("x" * 5000), "is missing"),
        (set_file("\ud800"), "is missing"),
        (change("layouts", "fp8", to=["panels"]), "unknown dtype 'fp8'"),
        (change("layouts", "fp32", to=["panels", "magic"]), "unknown layout 'magic'"),
        (change("layouts", "fp32", to="panels"), "unknown layout 'p'"),
        (change("layouts", "fp32", to=[["panels"]]), "unknown layout"),
        (change("layouts", to={}), "it has no graphs"),
        (change("layouts", to={"fp32": []}), "it has no graphs"),
        (change("budgets", to=[]), "there is no budget"),
        (change("budgets", 0, "name", to="extra"), "graphs/per-budget.extra.fp32.onnx is not listed"),
        (change("budgets", 0, "name", to=7), "damaged"),
        (change("budgets", 0, "layers", to=[[4, 128]]), "1 layers, the model has 2"),
        (change("budgets", 0, "layers", 0, to=[1, 128]), "not among the candidates"),
        (change("budgets", 0, "layers", 0, to=[4.0, 128]), "no list of integers"),
        (change("candidates", "groups", to=[2, 3]), "the full width is 4"),
        (change("candidates", to=None), "damaged"),
        (change("architecture", "num_kv_heads", to=0), "num_key_value_heads is 0"),
        (change("architecture", "hidden_size", to="64"), "hidden_size is '64'"),
        (change("architecture", "new_field", to=1), "damaged"),
        (change("architecture", "rope", to=None), "damaged"),
        (change("architecture", "rope", "type", to="dynamic"), "dynamic"),
        (change("files", to=[]), "damaged"),
        (change("files", WEIGHTS, to={}), "damaged"),
        (change("files", WEIGHTS, "bytes", to=float("inf")), "damaged"),
        (lambda m: m["files"].pop(WEIGHTS), f"{WEIGHTS} is not listed"),
        (lambda m: m["files"].pop("graphs/panels.fp16.onnx"), "graphs/panels.fp16.onnx is not listed"),
        (change("format", to="flextron-elastic-checkpoint"), "format"),
        (change("version", to="1"), "no list of integers"),
        (change("version", to=None), "no list of integers"),
        (change("source", to=7), "damaged"),
        (lambda m: m.pop("version"), "KeyError 'version'"),
    ],
)
def test_a_manifest_with_wrong_values_is_refused(
    bundle: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    value = manifest(bundle)
    damage(value)
    (bundle / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert message in str(caught.value)


def test_unknown_fields_beside_the_known_ones_are_ignored(bundle: Path) -> None:
    edit(bundle, comment="made by hand")
    assert Bundle.open(bundle).budgets[0].name == "full"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_bytes_of_the_manifest_never_raise_anything_else(
    whole: Bundle, bundle: Path, data: st.DataObject
) -> None:
    content = bytearray((whole.path / "manifest.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from(b'019-.,:"[]{}eE \0\xff'))
    (bundle / "manifest.json").write_bytes(content)
    with suppress(BundleError):
        Bundle.open(bundle, hashes=False)


def test_weights_that_are_not_those_of_the_manifest_are_refused(bundle: Path) -> None:
    os.replace(bundle / weights_file("fp16"), bundle / WEIGHTS)
    record = {"bytes": (bundle / WEIGHTS).stat().st_size, "sha256": sha256(bundle / WEIGHTS)}
    files = {**manifest(bundle)["files"], WEIGHTS: record}
    del files[weights_file("fp16")]
    edit(bundle, files=files, layouts={"fp32": ["shared"]})
    with pytest.raises(BundleError, match="embedding should be F32"):
        Bundle.open(bundle).weights("fp32")


def test_a_bundle_whose_replacement_was_killed_is_put_back(bundle: Path) -> None:
    os.rename(bundle, bundle.parent / ".bundle.old")
    assert Bundle.open(bundle).budgets[0].name == "full"
    assert not (bundle.parent / ".bundle.old").exists()
