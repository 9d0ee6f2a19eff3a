"""Training in one process or many: what accelerate was configured to do, and what cannot be trained with."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..errors import InputError, problems
from .settings import TrainingSettings

if TYPE_CHECKING:
    import torch

LONGEST_WAIT = timedelta(hours=12)
"""For the main process, while it reads the text. A process that dies ends the run at once, as the launcher sees it."""


def make_accelerator() -> Any:
    """The accelerate.Accelerator of this process: alone, or one of those that a launcher started.

    What it does with several processes (DDP, FSDP) is for accelerate's own configuration to say.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs

    return Accelerator(
        mixed_precision="no",  # `environment.autocast` does it, around narrowed forward passes only
        cpu=launched() and not torch.accelerator.is_available(),
        # A single process computes where its model is; see `place`.
        device_placement=launched(),
        # The loop accumulates on its own, so the configured number must not scale the loss.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)] if launched() else [],
    )


def launched() -> bool:
    """Whether a launcher (accelerate, torchrun) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def configured_precision() -> str:
    """The mixed precision that accelerate was configured for: `no`, `bf16`, `fp16` or `fp8`."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()


def is_main_process() -> bool:
    """Whether this process is the one that writes files and speaks; needs no torch."""
    return int(os.environ.get("RANK", "0")) == 0 or not launched()


def sharded(accelerator: Any) -> bool:
    """Whether each process keeps only a part of every weight (FSDP)."""
    return bool(accelerator.distributed_type == "FSDP")


def device_of(accelerator: Any, model: Any) -> torch.device:
    """Where this process computes."""
    device: torch.device = accelerator.device if accelerator.num_processes > 1 else model.device
    return device


def check_accelerator(accelerator: Any, settings: TrainingSettings) -> None:
    """Raise InputError naming every setting that does not fit how accelerate was configured."""
    found = []
    if accelerator.distributed_type not in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "FSDP"):
        found.append(f"{accelerator.distributed_type.value} is not supported, DDP and FSDP are")
    if configured_precision() not in ("no", "bf16"):
        found.append(f"mixed precision {configured_precision()} is not supported, bf16 is")
    if configured_precision() == "bf16" and settings.precision == "fp32":
        found.append("accelerate is configured for bf16, but the precision asked for is fp32")
    if sharded(accelerator) and not accelerator.is_fsdp2 and settings.optimizer == "muon":
        found.append("Muon needs matrices, FSDP 1 makes them flat: use fsdp_version 2, or --optimizer adamw")
    shares = accelerator.num_processes * settings.accumulate
    if settings.batch % shares:
        found.append(
            f"a batch of {settings.batch} cannot be shared by {accelerator.num_processes} processes "
            f"in {settings.accumulate} parts each"
        )
    problems(InputError, "this run cannot be distributed so", found, fix="change the options, or accelerate's config")


def share(accelerator: Any, ids: Any) -> Any:
    """The sequences of a batch that are this process's own."""
    size = len(ids) // accelerator.num_processes
    return ids[accelerator.process_index * size :][:size]


def mean_over_processes(accelerator: Any, values: torch.Tensor) -> list[float]:
    """The mean of every element over the processes."""
    numbers: list[float] = (
        accelerator.reduce(values, reduction="mean") if accelerator.num_processes > 1 else values
    ).tolist()
    return numbers


def leave() -> None:
    """End the processes' group, if there is one, as its library asks for before the program ends."""
    if launched():
        import torch

        torch.distributed.destroy_process_group()
