"""The C++ runtime against the Python runner: the same tokens, time per token, start-up, interleaved in one run.

    python tools/bench_cpp.py BUILD [BUNDLE] [--rounds 20] [--starts 5] [--json FILE]

BUILD is a build of engines/ (`cmake -S engines -B BUILD && cmake --build BUILD`). Both generate in one process on one
thread, taking turns, for every budget, greedy and sampled with a seed; the tokens must be equal. The time per token is
the p50 that each reports and, as other programs may interrupt either, the processor time of the thread per
generated token. Start-up is from starting a process to its first token on standard output, and the processor time of
that process; hashes are checked. Without BUNDLE: a random model of 29M parameters in fp32.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import onnxruntime
from rich.console import Console
from rich.table import Table

from flextron_export import Runner
from flextron_export.exporting import export
from tools.random_checkpoint import write_random_checkpoint

SHAPE: dict[str, Any] = {
    "layers": 8,
    "hidden": 512,
    "heads": 8,
    "kv_heads": 8,
    "ffn": 1376,
    "vocab": 8000,
}
LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
PROMPT = [7 + i % 50 for i in range(16)]
TOKENS = 64
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "top-p 0.95": {"temperature": 1.0, "top_p": 0.95, "seed": 1},
    "top-k 50": {"temperature": 0.8, "top_k": 50, "seed": 2},
}
PYTHON = """
import sys
from flextron_export import Runner
with Runner(sys.argv[1], budget=sys.argv[2], threads=1) as runner:
    for token in runner.generate_ids([int(i) for i in sys.argv[3].split(",")], 1, stop_on_eos=False):
        print(token, flush=True)
"""


class Generation(ctypes.Structure):
    """FlextronGeneration of engines/include/flextron/flextron.h."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("max_new_tokens", ctypes.c_int64),
        ("temperature", ctypes.c_double),
        ("top_k", ctypes.c_int64),
        ("top_p", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        ("ignore_eos", ctypes.c_int32),
        ("min_p", ctypes.c_double),
        ("repetition_penalty", ctypes.c_double),
    )


class Timings(ctypes.Structure):
    """FlextronTimings."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("prompt_tokens", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("first_token_ms", ctypes.c_double),
        ("p50", ctypes.c_double),
        ("p95", ctypes.c_double),
        ("stopped_by", ctypes.c_char_p),
    )


class Cpp:
    """The C interface on a bundle, one thread."""

    def __init__(self, build: Path, bundle: Path) -> None:
        os.environ["FLEXTRON_ONNXRUNTIME"] = str(LIBRARY)
        self._c, self._runner = (
            ctypes.CDLL(str(build / "libflextron.so")),
            ctypes.c_void_p(),
        )
        self._c.flextronLastError.restype = ctypes.c_char_p
        options = (ctypes.c_byte * 1024)()  # larger than FlextronOptions; all that is set is read back
        self._c.flextronDefaultOptions(options)
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # so that "all usable cores" is one
        self._check(self._c.flextronOpen(str(bundle).encode(), options, ctypes.byref(self._runner)))

    def generate(self, budget: str, settings: dict[str, Any]) -> tuple[list[int], float]:
        """The tokens, and the reported p50."""
        self._check(self._c.flextronUseBudget(self._runner, budget.encode()))
        generation, timings, tokens = (
            Generation(),
            Timings(size=ctypes.sizeof(Timings)),
            [],
        )
        self._c.flextronDefaultGeneration(ctypes.byref(generation))
        generation.max_new_tokens, generation.ignore_eos = TOKENS, 1
        for name, value in settings.items():
            setattr(generation, name, value)

        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_void_p)
        def keep(token: int, _: Any) -> int:
            tokens.append(token)
            return 0

        prompt = (ctypes.c_int64 * len(PROMPT))(*PROMPT)
        size = ctypes.c_size_t(len(PROMPT))
        found = self._c.flextronGenerate(
            self._runner,
            prompt,
            size,
            ctypes.byref(generation),
            keep,
            None,
            ctypes.byref(timings),
        )
        self._check(found)
        return tokens, timings.p50

    def close(self) -> None:
        self._c.flextronClose(self._runner)

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(self._c.flextronLastError().decode())


def decode(build: Path, bundle: Path, rounds: int) -> list[dict[str, Any]]:
    """One record per round, budget, setting and side."""
    records: list[dict[str, Any]] = []
    cpp = Cpp(build, bundle)
    with Runner(bundle, threads=1, prefix_cache=0) as runner:

        def python(budget: str, settings: dict[str, Any]) -> tuple[list[int], float]:
            selection = runner.select(budget=budget)
            tokens = list(runner.generate_ids(PROMPT, TOKENS, selection=selection, stop_on_eos=False, **settings))
            return tokens, runner.timings.p50 or 0.0

        for number in range(-1, rounds):  # the first round warms up
            for budget in runner.budgets:
                for label, settings in SETTINGS.items():
                    sides = {"python": python, "cpp": cpp.generate}
                    tokens = {}
                    for side in sorted(sides, reverse=number % 2 == 0):
                        start = time.thread_time()
                        tokens[side], p50 = sides[side](budget.name, settings)
                        used = (time.thread_time() - start) * 1e3 / TOKENS
                        about = {
                            "round": number,
                            "budget": budget.name,
                            "sampling": label,
                            "side": side,
                        }
                        if number >= 0:
                            records.append({**about, "p50": p50, "processor": used})
                    if tokens["python"] != tokens["cpp"]:
                        raise SystemExit(f"{budget.name}, {label}: the tokens differ")
    cpp.close()
    return records


def start(build: Path, bundle: Path, starts: int) -> list[dict[str, Any]]:
    """One record per start and side: seconds to the first token, and of processor time until the process ended."""
    ids, environment = (
        ",".join(map(str, PROMPT)),
        {**os.environ, "FLEXTRON_ONNXRUNTIME": str(LIBRARY)},
    )
    options = [
        "--budget",
        "full",
        "--threads",
        "1",
        "--max-new-tokens",
        "1",
        "--ignore-eos",
    ]
    sides: dict[str, list[str]] = {
        "python": [sys.executable, "-c", PYTHON, str(bundle), "full", ids],
        "cpp": [str(build / "flextron-run"), str(bundle), "--ids", ids, *options],
    }
    records = []
    for number in range(-1, starts):
        for side, words in sides.items():
            begin = time.perf_counter()
            process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            assert process.stdout is not None
            if not process.stdout.read(1):
                raise SystemExit(f"{words[0]} printed nothing")
            seconds = time.perf_counter() - begin
            process.stdout.close()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if number >= 0:
                records.append(
                    {
                        "side": side,
                        "seconds": seconds,
                        "processor": usage.ru_utime + usage.ru_stime,
                    }
                )
    return records


def median(records: list[dict[str, Any]], key: str, **wanted: Any) -> float:
    return statistics.median(r[key] for r in records if all(r[k] == v for k, v in wanted.items()))


def report(decoding: list[dict[str, Any]], starting: list[dict[str, Any]]) -> None:
    table = Table(
        "budget",
        "sampling",
        "python p50",
        "C++ p50",
        "ratio",
        "python processor",
        "C++ processor",
        "ratio",
    )
    ratios: dict[str, list[float]] = {"p50": [], "processor": []}
    for budget, sampling in dict.fromkeys((r["budget"], r["sampling"]) for r in decoding):
        row = [budget, sampling]
        for key, found in ratios.items():
            pair = [median(decoding, key, budget=budget, sampling=sampling, side=s) for s in ("python", "cpp")]
            found.append(pair[1] / pair[0])
            row += [f"{pair[0]:.3f}", f"{pair[1]:.3f}", f"{found[-1]:.3f}"]
        table.add_row(*row)
    Console(width=110).print(table)
    for key, found in ratios.items():
        print(f"{key}: C++ / Python median {statistics.median(found):.3f}, largest {max(found):.3f}")
    for key in ("seconds", "processor"):
        pair = [median(starting, key, side=s) for s in ("python", "cpp")]
        print(f"start-up to the first token, {key}: Python {pair[0]:.3f}, C++ {pair[1]:.3f}, {pair[1] / pair[0]:.2f}x")
    print(f"all tokens equal; load {os.getloadavg()[0]:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bundle = arguments.bundle
        if bundle is None:
            write_random_checkpoint(Path(scratch) / "checkpoint", **SHAPE)
            options: dict[str, Any] = {
                "layouts": ["panels"],
                "dtypes": ["fp32"],
                "verify": False,
            }
            bundle = export(Path(scratch) / "checkpoint", Path(scratch) / "bundle", **options).path
        starting = start(arguments.build.resolve(), bundle, arguments.starts)
        decoding = decode(arguments.build.resolve(), bundle, arguments.rounds)
    report(decoding, starting)
    if arguments.json:
        arguments.json.write_text(json.dumps({"decode": decoding, "start": starting}, indent=1))


if __name__ == "__main__":
    main()
