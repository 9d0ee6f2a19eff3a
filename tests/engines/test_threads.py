"""Runners in several threads of one process: the same tokens, each thread its own errors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import onnxruntime
import pytest

from flextron_export import Runner

LIBRARY = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"), None)
PROMPT = [1, 2, 3, 200, 7]

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="this onnxruntime has no shared library to load")


SUPPRESSIONS = Path(__file__).resolve().parents[1] / "cpp" / "tsan.supp"


def generated_in_threads(directory: Path, bundle: Path, **environment: str) -> list[int]:
    words = [directory / "tests" / "flextron_threads", bundle, *map(str, PROMPT)]
    settings = {**os.environ, "FLEXTRON_ONNXRUNTIME": str(LIBRARY), **environment}
    done = subprocess.run(words, capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return [int(line) for line in done.stdout.split()]


def expected(bundle: Path) -> list[int]:
    with Runner(bundle, threads=1) as runner:
        return list(runner.generate_ids(PROMPT, max_new_tokens=6))


def test_threads_with_runners_of_their_own_do_not_disturb_each_other(engines_build: Path, pristine: Path) -> None:
    assert generated_in_threads(engines_build, pristine) == expected(pristine)


@pytest.mark.slow
def test_under_the_thread_sanitizer(thread_sanitized_build: Path, pristine: Path) -> None:
    # Of ONNX Runtime's own locks only one half is seen, which would be reported as misuse.
    options = f"suppressions={SUPPRESSIONS} report_mutex_bugs=0 halt_on_error=1"
    assert generated_in_threads(thread_sanitized_build, pristine, TSAN_OPTIONS=options) == expected(pristine)
