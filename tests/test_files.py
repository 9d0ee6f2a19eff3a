"""A directory appears whole or not at all, and the old one survives a failure, a full disk and a killed process."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flextron_export.errors import CheckpointError, InputError
from flextron_export.files import (
    check_space,
    check_writable,
    integers,
    new_directory,
    read_object,
    recover,
    sha256,
    write_json,
    write_text,
)

MARKER = "marker.json"


def write(path: Path, content: str = "new", *, overwrite: bool = True) -> None:
    with new_directory(path, marker=MARKER, overwrite=overwrite) as directory:
        (directory / MARKER).write_text(content)


def content(path: Path) -> str:
    return (path / MARKER).read_text()


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_a_directory_appears_with_what_was_written(tmp_path: Path) -> None:
    with new_directory(tmp_path / "a" / "out", marker=MARKER) as directory:
        (directory / MARKER).write_text("new")
        assert not (tmp_path / "a" / "out").exists()
    assert content(tmp_path / "a" / "out") == "new"
    assert names(tmp_path / "a") == ["out"]
    assert (tmp_path / "a" / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), new_directory(tmp_path / "out", marker=MARKER) as directory:
        (directory / MARKER).write_text("half")
        raise failure
    assert names(tmp_path) == []


def test_a_failure_leaves_the_old_directory_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(ValueError), new_directory(out, marker=MARKER, overwrite=True) as directory:
        (directory / MARKER).write_text("half")
        raise ValueError
    assert content(out) == "old"
    assert names(tmp_path) == ["out"]


def test_only_what_this_tool_wrote_is_replaced_and_only_if_asked(tmp_path: Path) -> None:
    out, foreign, file = tmp_path / "out", tmp_path / "foreign", tmp_path / "file"
    write(out, "old")
    with pytest.raises(InputError, match="--overwrite"):
        write(out, overwrite=False)
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=f"was not written by this tool .*{MARKER}"):
        write(foreign)
    file.write_text("a file")
    with pytest.raises(InputError, match="was not written by this tool"):
        write(file)
    assert (content(out), names(foreign), file.read_text()) == ("old", ["thesis.txt"], "a file")
    write(out)
    assert content(out) == "new"
    assert names(tmp_path) == ["file", "foreign", "out"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", overwrite=False)
    assert content(tmp_path / "out") == "new"


def test_what_appeared_in_the_meantime_is_not_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(InputError, match="cannot be written: Directory not empty"),
        new_directory(out, marker=MARKER) as directory,
    ):
        (directory / MARKER).write_text("second")
        write(out, "first", overwrite=False)
    assert content(out) == "first"
    assert names(tmp_path) == ["out"]


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "out", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "disk" / "out") == "new"
    assert names(tmp_path) == ["disk", "link"]


def test_the_current_directory_may_be_named_by_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out", "old")
    monkeypatch.chdir(tmp_path / "out")
    recover(Path())
    write(Path())
    assert content(tmp_path / "out") == "new"


def test_a_full_disk_is_told_and_the_old_directory_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with (
        pytest.raises(InputError, match=r"disk is full: (.|\n)* MB are free"),
        new_directory(out, marker=MARKER, overwrite=True) as directory,
    ):
        (directory / "weights").symlink_to("/dev/full")  # a device on which every write fails for want of space
        (directory / "weights").write_bytes(b"x" * 1000)
    assert content(out) == "old"
    assert names(tmp_path) == ["out"]


def test_a_full_disk_is_told_by_libraries_with_errors_of_their_own(small_disk: Callable[[int], Path]) -> None:
    from safetensors.numpy import save_file

    out = small_disk(256) / "out"
    write(out, "old")
    with (
        pytest.raises(InputError, match="disk is full"),
        new_directory(out, marker=MARKER, overwrite=True) as directory,
    ):
        save_file({"x": np.zeros(100_000)}, directory / "weights")
    assert content(out) == "old"
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS], ids=["permission", "read-only"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(**options: object) -> str:
        raise OSError(code, os.strerror(code), str(tmp_path / ".out.part-0"))

    monkeypatch.setattr("flextron_export.files.tempfile.mkdtemp", refuse)
    with pytest.raises(InputError, match=f"cannot be written: {os.strerror(code)}"):
        write(tmp_path / "out")


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path / "file" / "out")


def test_an_unexpected_error_is_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_directory(tmp_path / "out", marker=MARKER):
        (tmp_path / "absent").read_text()


KILLED = {
    "while writing": "",
    "before the first rename": "files._swap = kill",
    "between the two renames": """
        rename = os.rename
        os.rename = lambda a, b: kill() if str(b) == sys.argv[1] else rename(a, b)
    """,
    "before the old one is removed": """
        rmtree = shutil.rmtree
        shutil.rmtree = lambda path, **k: kill() if str(path).endswith(".old") and path.exists() else rmtree(path, **k)
    """,
}


def killed(out: Path, moment: str) -> None:
    """Run a process that writes `out` and really dies at that moment."""
    script = """
import os, shutil, signal, sys
from pathlib import Path
from flextron_export import files

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{moment}
with files.new_directory(Path(sys.argv[1]), marker="marker.json", overwrite=True) as directory:
    (directory / "marker.json").write_text("new")
    {writing}
"""
    text = script.format(moment=textwrap.dedent(KILLED[moment]), writing="kill()" if moment == "while writing" else "")
    process = subprocess.run([sys.executable, "-c", text, str(out)], capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()


@pytest.mark.parametrize("moment", KILLED)
def test_a_killed_process_leaves_one_whole_directory_and_the_next_one_tidies_up(tmp_path: Path, moment: str) -> None:
    out = tmp_path.resolve() / "out"
    write(out, "old")
    killed(out, moment)
    recover(out)
    assert content(out) == ("new" if moment == "before the old one is removed" else "old")
    assert names(tmp_path) != ["out"], "the killed process left something"
    write(out, "newer")
    assert content(out) == "newer"
    assert names(tmp_path) == ["out"]


def test_the_directory_of_a_killed_process_is_not_overwritten_unasked(tmp_path: Path) -> None:
    out = tmp_path.resolve() / "out"
    write(out, "old")
    killed(out, "between the two renames")
    assert not out.exists()
    with pytest.raises(InputError, match="--overwrite"):
        write(out, overwrite=False)
    assert content(out) == "old"


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    part = tmp_path / ".out.part-abc"
    part.mkdir()
    (part / "weights").write_text("half")
    handle = os.open(part, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    write(tmp_path / "out")
    assert names(tmp_path) == [".out.part-abc", "out"]
    os.close(handle)
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_file_that_a_killed_process_left_half_written_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    abandoned, living, fresh = (tmp_path / f".file.json.{name}" for name in ("abandon0", "living00", "fresh000"))
    for path in (abandoned, living):
        path.write_text("half")
    fresh.touch()  # made this moment, not locked yet
    handle = os.open(living, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    write_json(tmp_path / "file.json", {"a": 1})
    assert names(tmp_path) == [".file.json.fresh000", ".file.json.living00", "file.json"]
    os.close(handle)
    write_json(tmp_path / "file.json", {"a": 2})
    assert names(tmp_path) == [".file.json.fresh000", "file.json"]


def test_a_file_is_replaced_whole_and_everybody_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file.json"
    write_json(path, {"größe": 1})
    assert read_object(path, InputError) == {"größe": 1}
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \ud800")
    assert read_object(path, InputError) == {"größe": 1}
    assert names(tmp_path / "a") == ["file.json"]


@pytest.mark.parametrize(
    "damaged", [b"", b"[1]", b"null", b"{", b'{"a": 1', b"\xff\xfe", b"[" * 100_000], ids=lambda text: repr(text[:9])
)
def test_damaged_json_is_an_error_that_names_the_file(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "file.json").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"file\.json is damaged(.|\n)*try again"):
        read_object(tmp_path / "file.json", CheckpointError, "try again")


@pytest.mark.parametrize("value", ["12", [1.0], [True], ["1"], {"a": 1}, None])
def test_only_lists_of_integers_are_lists_of_integers(value: object) -> None:
    assert integers([1, 2]) == (1, 2)
    with pytest.raises(ValueError, match="no list of integers"):
        integers(value)


def test_sha256_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    assert sha256(tmp_path / "file") == "35bce4eae54ec8e6cc2868baa8d157914d6ae2858811b4cc0c078c94460fa26f"


def test_a_source_that_cannot_be_read_is_not_reported_as_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    secret = tmp_path / "source" / "tokenizer.json"
    with pytest.raises(PermissionError), new_directory(tmp_path / "out", marker="m") as part:
        (part / "m").write_text("")
        raise PermissionError(errno.EACCES, "Permission denied", str(secret))
    with pytest.raises(InputError, match="cannot be written"), new_directory(tmp_path / "out", marker="m") as part:
        raise PermissionError(errno.EACCES, "Permission denied", str(part / "m"))


def test_everybody_may_read_what_a_library_wrote_for_its_owner_alone(tmp_path: Path) -> None:
    with new_directory(tmp_path / "out", marker=MARKER) as directory:
        (directory / MARKER).touch(mode=0o600)
    assert (tmp_path / "out" / MARKER).stat().st_mode & 0o777 == 0o644


def test_a_relative_path_below_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("text")
    with pytest.raises(InputError, match=r"file/new\.json cannot be written"):
        write_text(Path("file/new.json"), "{}")


@pytest.mark.parametrize(
    ("path", "directory", "usable"),
    [
        ("new", False, True),
        ("a/b/new", False, True),
        ("file", False, True),
        ("file", True, False),
        ("file/new", False, False),
        ("file/new", True, False),
        (".", False, False),
        (".", True, True),
    ],
)
def test_what_cannot_be_written_is_known_before(tmp_path: Path, path: str, directory: bool, usable: bool) -> None:
    (tmp_path / "file").write_text("text")
    if usable:
        check_writable(tmp_path / path, directory=directory)
    else:
        with pytest.raises(InputError, match="cannot be written"):
            check_writable(tmp_path / path, directory=directory)
    assert names(tmp_path) == ["file"]


def test_a_disk_that_is_too_small_is_known_before(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(256)
    check_space(disk / "a" / "new", 256 << 10)
    with pytest.raises(InputError, match=r"too full for .*new: 0\.3 MB are needed, 0\.3 MB are free"):
        check_space(disk / "a" / "new", (256 << 10) + 1)
