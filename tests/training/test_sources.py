"""Reading documents as a stream: text, JSONL, data sets, and long documents in parts."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flextron_export.errors import InputError
from flextron_export.training import sources
from flextron_export.training.corpus import read_text
from flextron_export.training.sources import Part, is_streamed, read_parts

ROWS = [{"text": "first\n\nwith a blank line"}, {"text": " "}, {"id": 1, "text": "second ž"}]
DOCUMENTS = ["first\n\nwith a blank line", "second ž"]


def jsonl(rows: list[dict[str, object]]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.mark.parametrize(
    ("name", "pack"), [("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.jsonl.xz", lzma.compress)]
)
def test_a_line_of_jsonl_is_a_document(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(pack(jsonl(ROWS)))
    assert read_text([path]) == DOCUMENTS


def test_the_field_of_the_text_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"body": "words", "text": 7}]))
    assert read_text([path], "body") == ["words"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', "line 3 is not JSON"),
        ("[" * 100_000, "line 3 is not JSON"),
        ("\x80", "line 3 is not JSON"),
        ("[1]", "line 3 is not a JSON object"),
        ('{"body": "x"}', r"line 3 has no text in the field 'text'; its fields are 'body'(.|\n)*--text-field"),
        ('{"text": null}', "line 3 has no text in the field 'text': it holds NoneType"),
    ],
    ids=["cut", "deep", "binary", "list", "no field", "null"],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=f"{re.escape(str(path))}, {message}"):
        read_text([path])


def test_a_jsonl_file_without_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ""}\n')
    with pytest.raises(InputError, match="has no text"):
        read_text([path])


def test_the_place_of_a_bad_byte_is_that_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LONGEST", 100)
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffž\n\n".encode() * 100 + b"\xff")
    with pytest.raises(InputError, match="byte 700 is not valid UTF-8"):
        read_text([path])


@settings(deadline=None)  # it writes files
@given(
    documents=st.lists(st.text("ab \n\tž", max_size=120), min_size=1, max_size=8),
    blank=st.sampled_from(["\n\n", "\n \n", "\n\t\n\n"]),
)
def test_long_documents_come_in_parts_that_are_their_text(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], blank: str
) -> None:
    path = tmp_path_factory.mktemp("parts") / "a.txt"
    text = blank.join(documents)
    path.write_text(text, encoding="utf-8")
    expected = [d for d in (part.strip() for part in re.split(r"\n\s*\n", text)) if d]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "LONGEST", 40)
        patch.setattr(sources, "PIECES", 4)
        if not expected:
            with pytest.raises(InputError, match="no text"):
                read_text([path])
            return
        assert read_text([path]) == expected
        parts = list(read_parts([path]))
    assert sum(part.ends for part in parts) == len(expected)
    assert max(len(part.text) for part in parts) <= 40, "no more than that is in memory"


def test_parts_are_cut_between_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "LONGEST", 40)
    monkeypatch.setattr(sources, "PIECES", 4)
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"text": "one two three four five six seven eight nine"}]))
    parts = list(read_parts([path]))
    assert [p.text for p in parts[:3]] == ["one two", " three", " four five"]
    assert [p.ends for p in parts] == [False] * (len(parts) - 1) + [True]
    assert "".join(p.text for p in parts) == "one two three four five six seven eight nine"


class TestDataSets:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        datasets = pytest.importorskip("datasets")
        rows = datasets.Dataset.from_list([{"text": d["text"], "n": i} for i, d in enumerate(ROWS)])
        rows.save_to_disk(tmp_path / "plain")
        datasets.DatasetDict({"train": rows, "test": rows.select([2])}).save_to_disk(tmp_path / "splits")
        (tmp_path / "files").mkdir()
        (tmp_path / "files" / "data.jsonl").write_bytes(jsonl(ROWS))
        return tmp_path

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("plain", DOCUMENTS),
            ("splits", DOCUMENTS),
            ("splits:test", DOCUMENTS[1:]),
            ("files", DOCUMENTS),
        ],
    )
    def test_rows_are_documents(self, saved: Path, source: str, expected: list[str]) -> None:
        assert read_text([f"dataset:{saved}/{source}"]) == expected

    def test_what_is_not_there_is_named(self, saved: Path) -> None:
        with pytest.raises(InputError, match=r"row 1 has no text in the field 'body'; its fields are 'text', 'n'"):
            read_text([f"dataset:{saved}/plain"], "body")
        with pytest.raises(InputError, match=r"has no split 'x'(.|\n)*train, test"):
            read_text([f"dataset:{saved}/splits:x"])
        with pytest.raises(InputError, match=r"dataset:.*/absent cannot be read"):
            read_text([f"dataset:{saved}/absent"])

    def test_a_damaged_one_is_named(self, saved: Path) -> None:
        (saved / "files" / "data.jsonl").write_bytes(jsonl(ROWS) + b'{"text": [{]')
        with pytest.raises(InputError, match=r"dataset:.*/files cannot be read"):
            read_text([f"dataset:{saved}/files"])

    def test_only_names_are_streamed(self, saved: Path) -> None:
        assert is_streamed("dataset:somebody/something:train:en")
        assert not is_streamed(f"dataset:{saved}/plain") and not is_streamed("text.txt")


def test_a_document_and_its_end() -> None:
    assert list(sources._document("  words ")) == [Part("words", True)]
    assert list(sources._document("  ")) == []
