"""A tiny random model, a text and an elastic checkpoint of them, made once per test session."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WORDS = ("the", "king", "went", "up", "to", "a", "city", "and", "his", "people", "saw", "that", "river", "was", "wide")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory: Llama with 2 layers, 4 KV groups of 2 heads, 128 neurons."""
    from flextron_export.training.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents of 60 words each."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=60)) for _ in range(40)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_model_dir: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an elastic checkpoint, sorted but not trained."""
    from flextron_export.training.elastify import elastify

    out = tmp_path_factory.mktemp("tiny") / "elastic"
    return elastify(tiny_model_dir, [tiny_text], out, tokens=0, length=32, progress=False).path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes, or resizes, a real file system of so many kilobytes, where this user may."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kilobytes: int) -> Path:
        options = f"{'remount,' if os.path.ismount(place) else ''}size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if os.getuid() != 0:
            pytest.skip("mounting a small disk needs root")
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
        return place

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", str(place)], check=True)
