"""What training runs on: the libraries, the number of threads, the device, its precision and its attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MissingDependencyError
from ..targets.cores import check_threads

if TYPE_CHECKING:
    import torch

ATTENTION = "flextron_training"
"""Name under which `_causal_attention` is known to transformers."""

SHORT = 512
"""Longest sequence for which a CPU is given whole attention matrices rather than the fused kernel."""


def require_training() -> None:
    """Raise MissingDependencyError if torch or transformers cannot be imported."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"Training needs {error.name}, which cannot be imported: {error}.",
            fix="pip install 'flextron-export[train]'",
        ) from error


def default_device() -> str:
    """`cuda` where torch sees a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Within the block torch computes with that many threads; None changes nothing.

    Raises:
        InputError: there are fewer than one, or more than torch can start.
    """
    import torch

    check_threads(threads)

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def usable_device(name: str) -> str:
    """The name of a torch device that computes here; InputError if there is none of that name."""
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # torch raises both
        reason = str(error).splitlines()[0]
        raise InputError(
            f"The device {name!r} cannot be used here: {reason}", fix="leave it out, or use cpu"
        ) from error
    return name


@contextmanager
def enough_memory(doing: str, fix: str) -> Iterator[None]:
    """Within the block, or in the function that it decorates, running out of memory is an InputError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        import torch

        # torch has no class of its own for the memory of the CPU.
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
            raise
        raise InputError(
            f"There is not enough memory for {doing}: {str(error).splitlines()[0] if str(error) else 'out of memory'}",
            fix=fix,
        ) from error


def autocast(device: torch.device, precision: str) -> Any:
    """torch.autocast for `precision`: `bf16`, `fp32`, or `auto` (bf16 where the hardware multiplies it faster)."""
    import torch

    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()  # its absence makes bf16 many times slower
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" or (precision == "auto" and fast))


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Within the block, no module drops anything in training mode.

    Sub-networks learn to equal the frozen original, which drops nothing: with dropout the full model, which does equal
    it, would be pushed away from it by noise. It also makes up for too little text, of which continued training reads
    each part about once.
    """
    import torch

    # As modules of their own, and as numbers that attention is called with.
    names = {module: "p" for module in model.modules() if isinstance(module, torch.nn.modules.dropout._DropoutNd)}
    names |= {module: "attention_dropout" for module in model.modules() if hasattr(module, "attention_dropout")}
    before = {module: getattr(module, name) for module, name in names.items()}
    for module, name in names.items():
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name in names.items():
            setattr(module, name, before[module])


@contextmanager
def training_attention(model: Any, length: int) -> Iterator[None]:
    """Within the block, a model on a CPU with short sequences computes attention as matrix products.

    torch's fused CPU kernel spends most of a training step in its backward pass: at 16 heads and 128 tokens the whole
    step is 1.5 times faster this way.
    """
    from transformers import AttentionInterface

    before = model.config._attn_implementation
    if model.device.type == "cpu" and length <= SHORT:
        AttentionInterface.register(ATTENTION, _causal_attention)
        model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _causal_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    # Whole sequences without padding, so the mask is always the causal one, or that of the layer's window. The query
    # heads of a group are stacked along the sequence: keys and values are not repeated, and there is one larger product
    # per group.
    import torch

    batch, heads, length, head_dim = query.shape
    groups = key.shape[1]
    stacked = (query * scaling).reshape(batch, groups, -1, head_dim)
    scores = (stacked @ key.transpose(-1, -2)).view(batch, heads, length, length)
    hidden = torch.full((length, length), float("-inf"), dtype=scores.dtype, device=scores.device)
    hidden = hidden.triu(1) if sliding_window is None else hidden.triu(1) + hidden.tril(-sliding_window)
    weights = torch.softmax(scores + hidden, -1).view(batch, groups, -1, length)
    return (weights @ value).view(batch, heads, length, head_dim).transpose(1, 2).contiguous(), None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block transformers draws no bars for loading and writing weights."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
