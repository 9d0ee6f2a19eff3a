"""Safetensors files are written aligned and read without a copy; any damage gives the package's error and no other."""

from __future__ import annotations

import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flextron_export.elastic.safetensors import SafetensorsFile, TensorPlan, numpy_dtype, write_safetensors
from flextron_export.errors import BundleError, CheckpointError

ARRAYS: dict[str, np.ndarray] = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.linspace(-1, 1, 5).astype(np.float16),
    "brain": np.arange(6).astype(numpy_dtype("BF16")).reshape(2, 3),
    "flags": np.array([True, False]),
    "packed": np.arange(7, dtype=np.uint8),
    "scalar": np.array(3, np.int64),
    "nothing": np.empty((0, 4), np.float32),
}
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL", "uint8": "U8", "int64": "I64"}


def write(path: Path, arrays: dict[str, np.ndarray]) -> str:
    plans = {n: TensorPlan(NAMES[a.dtype.name], a.shape, partial(np.asarray, a)) for n, a in arrays.items()}
    return write_safetensors(path, plans)


def file_of(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    digest = write(path, ARRAYS)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    file = SafetensorsFile(path)
    assert set(file.tensors) == set(ARRAYS)
    for name, array in ARRAYS.items():
        for found in (file[name], file.read(name)):
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)


def test_the_reference_library_reads_what_we_write_and_we_what_it_writes(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    plain = {name: a for name, a in ARRAYS.items() if name != "brain"}
    write(tmp_path / "ours.safetensors", plain)
    save_file(plain, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    theirs, ours = load_file(tmp_path / "ours.safetensors"), SafetensorsFile(tmp_path / "theirs.safetensors")
    assert set(theirs) == set(ours.tensors) == set(plain)
    for name, array in plain.items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(ours[name], array)


def test_data_begins_on_a_page_and_tensors_on_64_bytes(tmp_path: Path) -> None:
    sizes = {"a": 16, "odd": 5, "b": 1024, "c": 48}
    write(tmp_path / "a.safetensors", {n: np.zeros(size, np.float32) for n, size in sizes.items()})
    offsets = {n: info.offset for n, info in SafetensorsFile(tmp_path / "a.safetensors").tensors.items()}
    assert min(offsets.values()) % 4096 == 0
    assert all(offsets[n] % 64 == 0 for n in "abc")


def test_views_are_mapped_and_read_only(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", ARRAYS)
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert np.shares_memory(file["matrix"][:2], file["matrix"])
    assert file["matrix"][:2].ctypes.data == file["matrix"].ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        file["matrix"][0] = 1


def test_a_tensor_of_another_shape_than_planned_is_not_written(tmp_path: Path) -> None:
    plan = TensorPlan("F32", (3,), lambda: np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"x has shape \(2,\), planned was \(3,\)"):
        write_safetensors(tmp_path / "a.safetensors", {"x": plan})


ONE_BYTE = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
DAMAGED = {
    "empty": b"",
    "shorter than the length": b"\x08\0\0",
    "no header": (0).to_bytes(8, "little"),
    "header longer than the file": file_of({}, length=100),
    "huge header": file_of({}, length=2**63),
    "no JSON": file_of(b"{'a': 1}"),
    "no UTF-8": file_of(b'{"\xff": 1}'),
    "UTF-16": file_of('{"a": 1}'.encode("utf-16")),
    "deep JSON": file_of(b"[" * 100_000),
    "a list": file_of([]),
    "a number": file_of(b"7 "),
    "a text": file_of(b'"ab"'),
    "entry is no object": file_of({"a": 1}),
    "entry is empty": file_of({"a": {}}),
    "same name twice": file_of(b'{"a":%s,"a":%s}' % (ONE_BYTE, ONE_BYTE), b"x"),
    "same key twice": file_of(b'{"a":{"dtype":"F32","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "unknown dtype": file_of({"a": tensor("F7")}, bytes(8)),
    "dtype without a size here": file_of({"a": tensor("F8_E5M2", [8])}, bytes(8)),
    "dtype is no text": file_of({"a": tensor(["F32"])}, bytes(8)),
    "shape is no list": file_of({"a": tensor(shape="2")}, bytes(8)),
    "shape is fractional": file_of({"a": tensor(shape=[2.0])}, bytes(8)),
    "shape is true": file_of({"a": tensor("F64", [True])}, bytes(8)),
    "negative shape": file_of({"a": tensor(shape=[-1, -2])}, bytes(8)),
    "enormous shape": file_of({"a": tensor(shape=[2**62, 2**62])}, bytes(8)),
    "infinite shape": file_of(b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,8]}}', bytes(8)),
    "size does not fit the shape": file_of({"a": tensor(shape=[3])}, bytes(8)),
    "offsets fractional": file_of({"a": tensor(offsets=[0.0, 8.0])}, bytes(8)),
    "one offset": file_of({"a": tensor(offsets=[8])}, bytes(8)),
    "offsets backwards": file_of({"a": tensor(offsets=[8, 0])}, bytes(8)),
    "offsets negative": file_of({"a": tensor(offsets=[-8, 0])}, bytes(8)),
    "offsets into the header": file_of({"a": tensor(offsets=[-4, 4])}, bytes(8)),
    "beyond the end": file_of({"a": tensor(offsets=[8, 16])}, bytes(8)),
    "truncated": file_of({"a": tensor()}, bytes(7)),
    "more bytes than described": file_of({"a": tensor()}, bytes(9)),
    "overlapping": file_of({"a": tensor(), "b": tensor(offsets=[4, 12])}, bytes(12)),
    "same place twice": file_of({"a": tensor(), "b": tensor()}, bytes(8)),
    "a gap": file_of({"a": tensor(), "b": tensor(offsets=[12, 20])}, bytes(20)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(DAMAGED[damage])
    with pytest.raises(CheckpointError, match=r"a\.safetensors cannot be read as safetensors"):
        SafetensorsFile(tmp_path / "a.safetensors")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="missing or no file"):
            SafetensorsFile(path)


def test_the_error_is_of_the_kind_the_caller_wants(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        SafetensorsFile(tmp_path / "absent", BundleError)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    write(path, ARRAYS)
    return path


def reads_or_refuses(path: Path, data: bytes) -> None:
    """A mutated file is refused, or everything its header describes can be read: nothing else may happen."""
    path.write_bytes(data)
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    for name, info in file.tensors.items():
        assert file[name].nbytes == file.read(name).nbytes == info.length


MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(data=st.data())
def test_changed_bytes_never_raise_anything_else(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    # Most of the file is padding and data, which cannot break it: change the length and the header.
    header = content.index(b"  ")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, header))] = data.draw(
            st.sampled_from(b'0123456789-.,:"[]{}ex \0\xff') | st.integers(0, 255)
        )
    reads_or_refuses(whole.with_name("changed"), bytes(content))


@MANY
@given(length=st.integers(0, 5000))
@example(length=0)
def test_a_truncated_file_is_always_refused(whole: Path, length: int) -> None:
    content = whole.read_bytes()
    path = whole.with_name("truncated")
    path.write_bytes(content[: min(length, len(content) - 1)])
    with pytest.raises(CheckpointError):
        SafetensorsFile(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@MANY
@given(
    header=st.dictionaries(
        st.text(max_size=4),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "U8", "BF16"]) | JSON,
                "shape": st.lists(st.integers(-2, 4), max_size=3) | JSON,
                "data_offsets": st.lists(st.integers(-2, 16), min_size=2, max_size=2) | JSON,
            }
        )
        | JSON,
        max_size=3,
    ),
    size=st.integers(0, 20),
)
def test_no_header_raises_anything_else(whole: Path, header: dict[str, Any], size: int) -> None:
    reads_or_refuses(whole.with_name("header"), file_of(header, bytes(size)))


def test_float8_is_written_and_read(tmp_path: Path) -> None:
    array = np.array([[0.5, -448, 1.75]], np.float32).astype(numpy_dtype("F8_E4M3"))
    write_safetensors(tmp_path / "a.safetensors", {"a": TensorPlan("F8_E4M3", (1, 3), lambda: array)})
    file = SafetensorsFile(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(file["a"].astype(np.float32), [[0.5, -448, 1.75]])
    assert file.raw("a").tobytes() == array.tobytes()
