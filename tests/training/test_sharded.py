"""Sharded training (FSDP 2) on two CPU processes.

accelerate offers FSDP only where there are GPUs, so the test puts its plugin in place by hand; torch's sharding, the
loop, its states and its optimisers are the real ones.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import copy, os, sys
import numpy as np
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from pathlib import Path
from safetensors.torch import save_model
from transformers import LlamaForCausalLM

from flextron_export.elastic.architecture import Architecture, read_config
from flextron_export.elastic.widths import Candidates
from flextron_export.training.elastic import TrainingSettings, train
from flextron_export.training.sampling import full_smallest_random
from flextron_export.training.state import States

path, out, optimizer, tokens = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
model, architecture = LlamaForCausalLM.from_pretrained(path), Architecture.from_config(read_config(path))
accelerator = Accelerator(cpu=True, mixed_precision="no")
if accelerator.num_processes > 1:
    os.environ["ACCELERATE_USE_FSDP"], os.environ["FSDP_VERSION"] = "true", "2"
    PartialState._shared_state["distributed_type"] = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
settings = TrainingSettings(
    tokens, batch=4, length=16, learning_rate=1e-3, loss="mix", optimizer=optimizer, threads=1, precision="fp32"
)
losses = train(
    model,
    architecture,
    np.random.default_rng(0).integers(0, 260, (20, 50)),
    settings,
    full_smallest_random(architecture, Candidates.default(architecture)),
    teacher=copy.deepcopy(model).requires_grad_(False),
    accelerator=accelerator,
    states=States(f"{out}.work", every=4, resume=True),
    progress=False,
)
if accelerator.is_main_process:
    save_model(model, out)
    print(losses)
"""


def run(processes: int, *arguments: object) -> list[float]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = Path(str(arguments[1])).with_name("run.py")
    script.write_text(RUN)
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses: list[float] = ast.literal_eval(done.stdout.splitlines()[-1])
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tolerance"), [("adamw", 1e-4), ("muon", 1e-3)])
def test_shards_train_as_the_whole_and_go_on_from_a_state(
    tiny_model_dir: Path, tmp_path: Path, optimizer: str, tolerance: float
) -> None:
    import torch
    from safetensors.torch import load_file

    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    losses = run(1, tiny_model_dir, whole, optimizer, 640)
    assert run(2, tiny_model_dir, parts, optimizer, 640) == pytest.approx(losses, abs=tolerance)
    expected, found = load_file(whole), load_file(parts)
    for name in expected:
        # Muon rounds to bfloat16 on the way, so the last bit of a sum may become a percent of a step.
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=2 * tolerance)
    # The state of step 8 is still there: what was sharded goes on whole, and the other way round.
    for work, processes in ((parts, 1), (whole, 2)):
        assert run(processes, tiny_model_dir, work, optimizer, 640) == pytest.approx(losses, abs=tolerance)
