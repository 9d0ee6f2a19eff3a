"""The interleaved run: every subject in a process of its own, one at a time at work."""

from __future__ import annotations

import json
import os
import subprocess
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

WORKER = Path(__file__).with_name("worker.py")
BURST = 4
"""Steps per turn; the first fetches what the others' turns drove out of the caches, and is not counted."""
PREFILLS = 3
STARTS = 3
CHECKED = 8
"""Greedy tokens that are compared between the subjects at full width."""


@dataclass(frozen=True)
class Subject:
    """A peer at one budget; `paths` are its models, the widest first (this project has one for all)."""

    peer: str
    budget: str
    python: str
    paths: list[Path]

    @property
    def name(self) -> str:
        return f"{self.peer} {self.budget}"


class Process:
    """The other end of `worker`."""

    def __init__(self, peer: str, python: str, capacity: int, dtype: str) -> None:
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [python, str(WORKER), peer, str(capacity), dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **single},
        )

    def __call__(self, command: str, *arguments: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([command, arguments]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"its process ended ({self.process.wait()})")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure_speed(
    subjects: list[Subject], options: Namespace, capacity: int, weights: int, console: Console
) -> dict[str, Any]:
    """Per subject: median milliseconds of a decode step in both contexts, of a prefill, and of a start to the first
    token; and of reading as many bytes as the full model's weights."""
    clock = 1 if options.processor_time else 0
    ids = np.random.default_rng(0).integers(3, 250, max(options.short, options.long)).tolist()
    found: dict[str, Any] = {}
    running: dict[str, Process] = {}
    for subject in subjects:
        console.print(f"starting {subject.name}")
        try:
            starts = [start(subject, options.dtype, capacity, ids[:16], clock) for _ in range(STARTS)]
            process = Process(subject.peer, subject.python, capacity, options.dtype)
            process("load", str(subject.paths[0]), subject.budget)
            process("prefill", ids[: options.short])
            tokens = process("decode", CHECKED)["tokens"]
        except RuntimeError as error:
            console.print(f"left out: {subject.name}: {error}", highlight=False)
            continue
        running[subject.name] = process
        found[subject.name] = {"peer": subject.peer, "budget": subject.budget, "tokens": tokens}
        found[subject.name]["start_ms"] = median(starts)
    reader = Process("reader", subjects[0].python, weights, options.dtype)
    for kind, length in (("short", options.short), ("long", options.long)):
        console.print(f"decoding with {length} tokens")
        samples: dict[str, list[float]] = {name: [] for name in running}
        prefills: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(PREFILLS if kind == "short" else 1):
            for name, process in running.items():
                prefills[name].append(process("prefill", ids[:length])[clock])
        reads = []
        for _ in range(options.rounds):
            reads.append(reader("read")[clock])
            for name, process in running.items():
                samples[name] += [t[clock] for t in process("decode", BURST)["times"][1:]]
        for name, values in samples.items():
            found[name][f"decode_{kind}_ms"] = median(values)
            found[name][f"prefill_{kind}_ms"] = median(prefills[name])
        found.setdefault("read", {})[f"{kind}_ms"] = median(reads)
    for process in (*running.values(), reader):
        process.close()
    return found


def start(subject: Subject, dtype: str, capacity: int, ids: list[int], clock: int) -> float:
    """Milliseconds from nothing to the first token of a short prompt."""
    begin = time.perf_counter()
    process = Process(subject.peer, subject.python, capacity, dtype)
    try:
        process("load", str(subject.paths[0]), subject.budget)
        process("prefill", ids)
        return float(process("started")) if clock else (time.perf_counter() - begin) * 1e3
    finally:
        process.close()


def measure_memory(
    subjects: list[Subject], budgets: list[str], options: Namespace, console: Console
) -> dict[str, dict[str, float]]:
    """Per peer: the most resident MB of a process with the full model, and with every budget ready, each run once."""
    found: dict[str, dict[str, float]] = {}
    ids = list(range(3, 3 + options.short))
    for subject in subjects:
        if subject.peer in found or subject.budget != budgets[0]:
            continue
        console.print(f"memory of {subject.peer}")
        process = Process(subject.peer, subject.python, 2 * options.short, options.dtype)
        try:
            for number, budget in enumerate(budgets):
                if number == 0 or len(subject.paths) > 1:
                    process("load", str(subject.paths[number]), budget)
                else:
                    process("use", budget)
                process("prefill", ids)
                process("decode", 2)
                if number == 0:
                    found[subject.peer] = {"one": process("memory")}
            found[subject.peer]["all"] = process("memory")
        except RuntimeError as error:
            console.print(f"left out: memory of {subject.peer}: {error}", highlight=False)
        process.close()
    return found
