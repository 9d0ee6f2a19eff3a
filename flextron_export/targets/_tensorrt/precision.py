"""Which devices compute with the numbers of a precision."""

from __future__ import annotations

from ...errors import TargetError
from .flavour import Flavour

LEAST = {"bf16": 80, "int4-fp16": 80, "fp8-fp16": 89}
"""precision -> first compute capability. TensorRT-RTX 1.7 says so: "the model contains HW-specific datatypes"."""


def capable(flavour: Flavour, dtype: str, sm: tuple[int, ...], here: int | None) -> tuple[int, ...]:
    """Compute capabilities to compile a precision for.

    Args:
        sm: those asked for; () for the library's own choice.
        here: that of the device at hand, where engines are compiled for it.

    Returns:
        `sm`; without it, those of the library's choice that have the precision, or () if all of them have.

    Raises:
        TargetError: one of them does not compute with such numbers.
    """
    least = LEAST.get(dtype, 0)
    asked = sm or (() if here is None else (here,))
    if refused := [n for n in asked if n < least]:
        raise TargetError(
            f"SM {', '.join(map(str, refused))} does not compute in {dtype}.",
            cause=f"it needs SM {least} or newer",
            fix=f"use {f'--sm {least}' if flavour.ahead_of_time else 'another device'}, or export --dtype int8-fp16",
        )
    if sm or min(flavour.reach, default=least) >= least:
        return sm
    return tuple(n for n in flavour.reach if n >= least)
