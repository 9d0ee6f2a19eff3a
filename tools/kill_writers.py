"""kill -9 at random moments of every command that writes: never a broken checkpoint, bundle, engine, table or page.

    python tools/kill_writers.py [--kills 200] [--seed 0] [--json FILE]

Every command runs whole once, to learn how long it takes; then again and again in a process that is killed at a random
moment of that time. After each kill, whatever lies where the command writes must be whole: what was there before, or
what the command makes; where something was there before, it must not be missing. At last the command runs to its end
over what the killed ones left. Prints the kills of each command and what was found; exits with 1 for anything broken.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from flextron_export.bundle.engines import read_engines
from flextron_export.bundle.manifest import Bundle
from flextron_export.cli import main as command_line
from flextron_export.elastic.checkpoint import ElasticCheckpoint
from flextron_export.errors import FlextronError
from flextron_export.files import recover
from flextron_export.runtime.table import all_tables
from flextron_export.training.latency_model import LatencyModel

WORDS = ("the", "king", "went", "up", "to", "a", "city", "and", "his", "people", "saw", "that", "river", "was", "wide")


@dataclass(frozen=True)
class Writer:
    """A command that writes.

    Attributes:
        name: of the command, and what sets it apart.
        arguments: of the command line.
        out: what it writes.
        check: raises for an `out` that is not whole.
        before: whether `out` is there before, so that it must never be missing.
    """

    name: str
    arguments: tuple[str, ...]
    out: Path
    check: Callable[[Path], Any]
    before: bool = False
    found: collections.Counter[str] = field(default_factory=collections.Counter)


def whole_checkpoint(path: Path) -> None:
    ElasticCheckpoint.open(path).weights()


def whole_bundle(path: Path) -> None:
    """Everything below it too: engines and tables that can be read, each of them."""
    bundle = Bundle.open(path)
    if any(record.get("damaged") for record in read_engines(bundle).values()):
        raise ValueError("a damaged engine")
    if len(all_tables(bundle)) != len([p for p in (path / "latency").glob("*.json") if not p.name.startswith(".")]):
        raise ValueError("a damaged latency table")


def whole_page(path: Path) -> None:
    if not path.read_text(encoding="utf-8").endswith("</html>\n"):
        raise ValueError("half a page")


def whole_model(path: Path) -> None:
    whole_bundle(path / "1" / "bundle")
    if not (path / "config.pbtxt").read_text().rstrip().endswith("}"):
        raise ValueError("half a configuration")


def writers(place: Path) -> list[Writer]:
    """The commands, in an order in which each finds what it needs."""
    from flextron_export.training.tiny import tiny_model

    draw = random.Random(0)
    text = place / "text.txt"
    text.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=60)) for _ in range(40)), encoding="utf-8")
    model, checkpoint, bundle = tiny_model(place / "model"), place / "checkpoint", place / "bundle"
    quick = ("--text", str(text), "--length", "32", "--threads", "1")
    by = ("--latency-device", "jetson-orin-nano", "--latency-shape", "7b", "--targets", "0.8")
    elastify = ("elastify", str(model), *quick, "--tokens", "512", "--batch", "4", "--out", str(checkpoint))
    export = ("export", str(checkpoint), "--dtype", "fp32", "--layout", "panels", "--no-verify")
    measure = ("--threads", "1", "--contexts", "16", "--prompt-lengths", "8", "--repeats", "6")
    found = place / "found"
    search = (
        "search",
        str(checkpoint),
        *quick,
        *by,
        "--sequences",
        "2",
        "--max-evaluations",
        "4",
        "--out",
        str(found),
        "--resume",
    )
    routed = place / "routed"
    route = (
        "route",
        str(checkpoint),
        *quick[:4],
        *by,
        "--tokens",
        "512",
        "--batch",
        "4",
        "--out",
        str(routed),
        "--resume",
    )
    return [
        Writer("elastify", (*elastify, "--resume"), checkpoint, whole_checkpoint),
        Writer("elastify, replacing", (*elastify, "--overwrite"), checkpoint, whole_checkpoint, before=True),
        Writer("search", search, found, whole_checkpoint),
        Writer("route", route, routed, whole_checkpoint),
        Writer("export", (*export, "--out", str(bundle)), bundle, whole_bundle),
        Writer("export, replacing", (*export, "--out", str(bundle), "--overwrite"), bundle, whole_bundle, before=True),
        Writer("build", ("build", str(bundle), "--target", "onnxruntime-cpu"), bundle, whole_bundle, before=True),
        Writer("calibrate", ("calibrate", str(bundle), *measure), bundle, whole_bundle, before=True),
        Writer(
            "latency analytic",
            ("latency", "analytic", "--shape", "1b", "--device", "h100", "--out", str(place / "model.json")),
            place / "model.json",
            LatencyModel.load,
        ),
        Writer("report", ("report", str(bundle), "--out", str(place / "page.html")), place / "page.html", whole_page),
        Writer(
            "triton, replacing",
            ("triton", str(bundle), "--out", str(place / "models"), "--name", "tiny", "--overwrite"),
            place / "models" / "tiny",
            whole_model,
            before=True,
        ),
    ]


def start(arguments: tuple[str, ...], log: Path) -> int:
    """Run a command in a fork of this process, which has imported most of what it needs; the process's id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = command_line(list(arguments), standalone_mode=False) or 0  # click returns the exit code of an error
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def complete(writer: Writer, log: Path) -> float:
    """Run it to its end; the seconds it took. RuntimeError if it failed."""
    begin = time.monotonic()
    _, status = os.waitpid(start(writer.arguments, log), 0)
    if status:
        raise RuntimeError(f"{writer.name} failed: {log.read_text(errors='replace')[-2000:]}")
    writer.check(writer.out)
    return time.monotonic() - begin


def kill(writer: Writer, seconds: float, log: Path) -> str:
    """Start it, kill it after that long, and look at what is there: `old or new`, `nothing`, or what is wrong."""
    process = start(writer.arguments, log)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    ended = "" if os.WIFSIGNALED(status) else " (it had ended)"
    recover(writer.out)  # as every command that opens it does
    if not writer.out.exists():
        return "MISSING" if writer.before else "nothing"
    try:
        writer.check(writer.out)
    except (FlextronError, OSError, ValueError) as error:
        return f"BROKEN: {type(error).__name__}: {error}"
    return f"whole{ended}"


def collect(place: Path, kills: int, seed: int) -> list[Writer]:
    """Kill every command in turn."""
    draw, log = random.Random(seed), place / "log"
    todo = writers(place)
    for number, writer in enumerate(todo):
        seconds = complete(writer, log)
        for _ in range(kills * (number + 1) // len(todo) - kills * number // len(todo)):
            if not writer.before and writer.out.exists():
                shutil.rmtree(writer.out) if writer.out.is_dir() else writer.out.unlink()
            writer.found[kill(writer, draw.uniform(0, 1.05 * seconds), log)] += 1
        if not writer.before and writer.out.exists():
            shutil.rmtree(writer.out) if writer.out.is_dir() else writer.out.unlink()
        complete(writer, log)
    return todo


def leftovers(place: Path) -> list[str]:
    """Hidden files and directories that killed commands left and the last, whole run did not remove."""
    return sorted(p.relative_to(place).as_posix() for p in place.rglob(".*") if "model/" not in p.as_posix())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        done = collect(Path(scratch), arguments.kills, arguments.seed)
        left = leftovers(Path(scratch))
    table = Table("command", "kills", "left whole", "left nothing", "had ended", "broken")
    broken = 0
    for writer in done:
        wrong = {what: count for what, count in writer.found.items() if what[0].isupper()}
        broken += sum(wrong.values())
        ended = writer.found["whole (it had ended)"]
        cells = sum(writer.found.values()), writer.found["whole"], writer.found["nothing"], ended, sum(wrong.values())
        table.add_row(writer.name, *map(str, cells))
        for what in wrong:
            print(f"{writer.name}: {what}")
    Console(width=100).print(table)
    print(f"{sum(sum(w.found.values()) for w in done)} kills, {broken} broken; left behind: {len(left)}", left[:5])
    if arguments.json:
        found = [{"command": w.name, **w.found} for w in done]
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
