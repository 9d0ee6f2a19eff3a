"""The commands of docs/training.md run as they are written, on a tiny model and for few tokens."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from flextron_export.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/training.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path, tiny_model_dir: Path, tiny_text: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    shutil.copy(tiny_text, tmp_path / "prose.txt")
    pages = [json.dumps({"body": f"page {i} " * 20}) for i in range(20)]
    (tmp_path / "pages.jsonl.gz").write_bytes(gzip.compress("\n".join(pages).encode()))
    python = sys.executable
    for command in blocks("bash"):
        short = command.replace("--tokens 100000", "--tokens 2000 --length 32 --threads 1")
        assert short != command
        short = re.sub("^flextron-export ", f"{python} -m flextron_export ", short, flags=re.MULTILINE)
        short = re.sub("^torchrun ", f"{python} -m torch.distributed.run ", short, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-euxc", short],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    written = {name for name in ("checkpoint", "more", "long", "two", "watched") if (tmp_path / name).is_dir()}
    assert len(written) == len(blocks("bash")) and list((tmp_path / "events").iterdir())


def test_commands_for_gpus_have_options_that_exist() -> None:
    launch = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--help"], capture_output=True, text=True, timeout=120
    ).stdout
    own = CliRunner().invoke(main, ["elastify", "--help"]).output
    for command in blocks("sh"):
        ours, theirs = command.split(" elastify ")[1], command.split(" -m flextron_export ")[0]
        assert all(option in own for option in re.findall(r"--[\w-]+", ours))
        assert all(option in launch for option in re.findall(r"--[\w-]+", theirs))


def test_the_fsdp_configuration_is_one_that_accelerate_reads(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    (configuration,) = blocks("yaml")
    path = tmp_path / "fsdp.yaml"
    path.write_text(configuration)
    read = load_config_from_file(str(path))
    assert read.fsdp_config["fsdp_version"] == 2 and read.mixed_precision == "bf16" and read.num_processes == 4


def test_the_page_names_every_sampling() -> None:
    from flextron_export.training.sampling import SAMPLINGS

    assert re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE) == list(SAMPLINGS)
