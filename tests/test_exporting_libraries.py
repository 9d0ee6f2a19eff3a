"""Export finds out what is missing before it writes anything, and loads weights without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKED = """
import sys
from importlib.abc import MetaPathFinder
class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def without_torch(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BLOCKED + code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("verify", [True, False])
def test_export_needs_torch_only_to_verify(tiny_checkpoint: Path, tmp_path: Path, verify: bool) -> None:
    out = tmp_path / "bundle"
    done = without_torch(f"""
import importlib.util as u
find = u.find_spec
u.find_spec = lambda name, *a: None if name in ("torch", "transformers") else find(name, *a)
from flextron_export import export
export({str(tiny_checkpoint)!r}, {str(out)!r}, verify={verify})
assert "torch" not in sys.modules
""")
    if verify:
        assert "MissingDependencyError" in done.stderr and "flextron-export[train]" in done.stderr
        assert not list(tmp_path.iterdir())
    else:
        assert done.returncode == 0, done.stderr
        assert (out / "manifest.json").is_file()
