"""Damaged and hostile bundles: every one must be refused, with an error of this package that names what is wrong.

    python tools/mutate_bundles.py [BUNDLE] [--count 1000] [--seed 0] [--json FILE]

Each mutation is made to a fresh copy: flipped bits, bytes cut off, added or swapped, files removed, exchanged or
replaced by links; in the manifest values replaced, removed or added, hashes and sizes changed, and paths that climb out
of the directory, each once more with the file that it leads to. A second pass opens every mutant without hashes, reads
its weights and golden outputs and loads its tokenizer: it may open, if only hashes tell, but must not fail in another
way. Prints how many of each kind were refused; exits with 1 if one was opened or failed otherwise. Without BUNDLE: a
small random one.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from flextron_export.bundle.golden import golden_file, read_golden
from flextron_export.bundle.manifest import MARKER, SEAL, Bundle
from flextron_export.errors import FlextronError
from flextron_export.exporting import export
from flextron_export.files import sha256
from flextron_export.runtime.tokenizer import Tokenizer
from tools.random_checkpoint import write_random_checkpoint

SHAPE: dict[str, Any] = {"layers": 2, "hidden": 64, "heads": 8, "kv_heads": 4, "ffn": 128, "vocab": 257}
CLIMBING = ("../outside", "graphs/../../outside", "/etc/hostname", "..", "a/..\\..\\outside", "C:\\outside", "./../o")
ODD: tuple[Any, ...] = (None, True, -1, 0, 1 << 70, 1.5, 1e300, "", "x", [], {}, [[]], {"a": 1})

Mutation = Callable[[Path, random.Random], str]


def _file(bundle: Path, draw: random.Random) -> Path:
    """Any file of the bundle, the manifest and its seal included."""
    names = [*json.loads((bundle / MARKER).read_text())["files"], MARKER, SEAL]
    return bundle / draw.choice(sorted(names))


def flip_bit(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    content = bytearray(path.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return f"{path.name}: bit at {place}"


def cut(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    content = path.read_bytes()
    kept = draw.choice((0, 1, len(content) // 2, len(content) - 1))
    path.write_bytes(content[:kept])
    return f"{path.name}: {kept} of {len(content)} bytes"


def add(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.choice((1, 64, 4096))))
    return f"{path.name}: bytes added"


def swap_bytes(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    content = bytearray(path.read_bytes())
    while True:
        a, b = draw.randrange(len(content)), draw.randrange(len(content))
        if content[a] != content[b]:
            break
    content[a], content[b] = content[b], content[a]
    path.write_bytes(content)
    return f"{path.name}: bytes {a} and {b} swapped"


def remove_file(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    path.unlink()
    return f"{path.name} removed"


def exchange_files(bundle: Path, draw: random.Random) -> str:
    while True:
        a, b = _file(bundle, draw), _file(bundle, draw)
        if a.read_bytes() != b.read_bytes():
            break
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    return f"{a.name} and {b.name} exchanged"


def link_outside(bundle: Path, draw: random.Random) -> str:
    """A link to a file of the same size somewhere else, its content altered."""
    path = _file(bundle, draw)
    outside = bundle.parent / "outside"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    outside.write_bytes(content)
    path.unlink()
    path.symlink_to(outside)
    return f"{path.name}: a link to another file"


def directory_instead(bundle: Path, draw: random.Random) -> str:
    path = _file(bundle, draw)
    path.unlink()
    path.mkdir()
    return f"{path.name}: a directory"


def change_hash(bundle: Path, draw: random.Random) -> str:
    def change(value: dict[str, Any]) -> str:
        name = draw.choice(sorted(value["files"]))
        old = value["files"][name]["sha256"]
        place = draw.randrange(len(old))
        new = draw.choice([c for c in "0123456789abcdef" if c != old[place]])
        value["files"][name]["sha256"] = draw.choice((old[:place] + new + old[place + 1 :], old[:-1], "", old.upper()))
        return f"hash of {name}"

    return _manifest(bundle, change)


def change_size(bundle: Path, draw: random.Random) -> str:
    def change(value: dict[str, Any]) -> str:
        name = draw.choice(sorted(value["files"]))
        value["files"][name]["bytes"] += draw.choice((-1, 1, 1 << 40))
        return f"size of {name}"

    return _manifest(bundle, change)


def climb(bundle: Path, draw: random.Random) -> str:
    """A path out of the directory, to a file that is there with the right size and hash."""

    def change(value: dict[str, Any]) -> str:
        outside = bundle.parent / "outside"
        outside.write_text("anything")
        name = draw.choice(CLIMBING)
        value["files"][name] = {"bytes": outside.stat().st_size, "sha256": sha256(outside)}
        return f"path {name}"

    return _manifest(bundle, change)


def change_value(bundle: Path, draw: random.Random) -> str:
    """Any value of the manifest by one of another kind or size, or remove it."""

    def change(value: dict[str, Any]) -> str:
        at: Any = value
        path = []
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw.choice(keys)
            path.append(str(key))
            if not isinstance(at[key], (dict, list)) or not at[key] or draw.random() < 0.15:
                break
            at = at[key]
        if draw.random() < 0.2:
            del at[key]
            return f"{'.'.join(path)} removed"
        at[key] = draw.choice([odd for odd in ODD if odd != at[key] or type(odd) is not type(at[key])])
        return f"{'.'.join(path)} = {str(at[key])[:20]}"

    return _manifest(bundle, change)


def _manifest(bundle: Path, change: Callable[[dict[str, Any]], str]) -> str:
    path = bundle / MARKER
    value = json.loads(path.read_text())
    about = change(value)
    path.write_text(json.dumps(value, indent=1) + "\n")
    return about


MUTATIONS: tuple[Mutation, ...] = (
    flip_bit,
    cut,
    add,
    swap_bytes,
    remove_file,
    exchange_files,
    link_outside,
    directory_instead,
    change_hash,
    change_size,
    climb,
    change_value,
)


def opens(bundle: Path, *, hashes: bool) -> str:
    """`refused`, `opened`, or the name of an error that is none of this package's."""
    try:
        opened = Bundle.open(bundle, hashes=hashes)
        if not hashes:
            for dtype in opened.dtypes:
                opened.weights(dtype)
                if golden_file(dtype) in opened.files:
                    read_golden(opened, dtype)
            Tokenizer(opened.path)
    except FlextronError:
        return "refused"
    except Exception as error:  # counted: whatever it is, it must not happen
        return f"{type(error).__name__}: {error}"
    return "opened"


def collect(pristine: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """One record per mutant: its kind, what was changed, and what became of it with hashes and without."""
    draw, records = random.Random(seed), []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(count):
            mutate, place = MUTATIONS[number % len(MUTATIONS)], Path(scratch) / str(number)
            bundle = shutil.copytree(pristine, place / "bundle")
            about = mutate(bundle, draw)
            results = {"result": opens(bundle, hashes=True), "without_hashes": opens(bundle, hashes=False)}
            records.append({"kind": mutate.__name__, "about": about, **results})
            shutil.rmtree(place)
    return records


def faults(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mutants that were opened, or failed with an error that is none of this package's."""
    return [r for r in records if r["result"] != "refused" or r["without_hashes"] not in ("refused", "opened")]


def make_bundle(directory: Path) -> Path:
    """A small random bundle with every layout."""
    from flextron_export.training.data import save_tokenizer
    from flextron_export.training.tiny import byte_tokenizer

    write_random_checkpoint(directory / "checkpoint", **SHAPE, max_positions=200)
    save_tokenizer(byte_tokenizer(), directory / "checkpoint")
    export(directory / "checkpoint", directory / "bundle", dtypes=("fp32",))
    return directory / "bundle"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        records = collect(arguments.bundle or make_bundle(Path(scratch)), arguments.count, arguments.seed)
    table = Table("mutation", "mutants", "refused", "opened without hashes")
    for kind in dict.fromkeys(r["kind"] for r in records):
        rows = [r for r in records if r["kind"] == kind]
        found = collections.Counter(r["result"] for r in rows)
        without = sum(r["without_hashes"] == "opened" for r in rows)
        table.add_row(kind, str(len(rows)), str(found["refused"]), str(without))
    Console(width=100).print(table)
    for fault in faults(records)[:20]:
        print("fault:", fault)
    print(f"{len(records)} mutants, {sum(r['result'] == 'refused' for r in records)} refused")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")
    sys.exit(bool(faults(records)))


if __name__ == "__main__":
    main()
