"""The latency table that a runner selects by: the one of this device, or one that is measured now."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..errors import InputError
from ..progress import Track
from ..targets.session import Session
from .calibrate import CONTEXTS, PROMPT_LENGTHS, measure
from .latency_target import LatencyTarget
from .opening import Opening
from .table import LatencyTable

CALIBRATION = ("auto", "never", "always")

log = logging.getLogger(__name__)


def find_table(
    opening: Opening,
    session: Callable[[], Session],
    calibration: str | LatencyTable,
    target: LatencyTarget | None,
    context: int | None,
    track: Track,
) -> LatencyTable:
    """The table to select by.

    Args:
        opening: how the bundle runs.
        session: gives the session to measure, if that is needed.
        calibration: one of CALIBRATION, or the table itself.
        target, context: lengths that they name are measured too rather than extrapolated.
        track: shows progress.

    Raises:
        InputError: there is no table, and `calibration` is `never`.
    """
    if isinstance(calibration, LatencyTable):
        return calibration
    command = f"flextron-export calibrate {opening.bundle.path} {opening.options}"
    if calibration != "always":
        device = opening.device()["id"]
        table = LatencyTable.load(opening.bundle, device, opening.target, opening.layout, opening.dtype)
        if table is not None:
            if table.caution:
                log.warning("%s Measure again: %s", table.caution, command)
            return table
        how = f"{opening.target}, {opening.layout}, {opening.dtype}"
        what = f"{opening.bundle.path} has no measurements of {how} on this device."
        if calibration == "never":
            raise InputError(what, fix=command)
        log.warning("%s Measuring now; this takes some seconds, once.", what)
    contexts, prompts = [*CONTEXTS], [*PROMPT_LENGTHS]
    if context is not None and context > max(contexts):
        contexts.append(context)
    if target is not None and target.prompt_length is not None and target.prompt_length > max(prompts):
        prompts.append(target.prompt_length)
    return measure(opening, session(), contexts, prompts, track=track)
