"""The README's commands and Python run as they are written, on a tiny model instead of the demo's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def demo_directory(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A directory that looks like the repository after `make demo`, as far as the README's paths go."""
    shutil.copytree(tiny_model_dir, tmp_path / "work/demo/base")
    shutil.copytree(ROOT / "calibration/text", tmp_path / "calibration/text")
    return tmp_path


def environment() -> dict[str, str]:
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": scripts, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_the_step_by_step_commands_run(demo_directory: Path) -> None:
    (commands,) = (b for b in blocks("bash") if "flextron-export elastify" in b)
    # The command is installed by the project; without an installation the module is the same program.
    script = (
        commands
        if shutil.which("flextron-export", path=environment()["PATH"])
        else commands.replace("flextron-export ", f"{sys.executable} -m flextron_export ")
    )
    script = re.sub(r"--tokens \d+", "--tokens 2000 --length 32", script)
    done = subprocess.run(
        ["bash", "-euxc", script], cwd=demo_directory, env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (demo_directory / "bundle/engines/tensorrt-rtx/shared.fp16/engine.json").is_file()
    assert list((demo_directory / "bundle/latency").glob("*.json"))


@pytest.mark.slow
def test_the_python_example_runs(demo_directory: Path) -> None:
    (example,) = (b for b in blocks("python") if "elastify(" in b)
    example = re.sub(r"(?<!_)tokens=[\d_]+", "tokens=2000, length=32, progress=False", example)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=demo_directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert " ms per token" in done.stdout


def test_the_readme_names_both_commands_and_only_pages_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text and "make test" in text
    missing = [link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text) if not (ROOT / link).exists()]
    assert not missing


def test_the_readme_shows_a_real_run() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:full|p\d+) \|.*\|$", text, re.MULTILINE)
    assert len(rows) >= 3, "a row per budget, from a run of `make demo`"
    assert re.search(r"!\[[^]]+\]\(docs/results/[^)]+\.png\)", text)
