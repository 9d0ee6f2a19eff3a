"""The latency table that a runner selects by: the one of this device, or one that is measured now."""

from __future__ import annotations

import logging
import threading

from ..errors import InputError
from ..progress import Track
from .calibrate import CONTEXTS, PROMPT_LENGTHS, measure
from .latency_target import LatencyTarget
from .opening import SharedSession
from .table import LatencyTable

CALIBRATION = ("auto", "never", "always")

log = logging.getLogger(__name__)


class Measurements:
    """The measurements of this device, looked up or made when they are first needed, for several threads.

    Args:
        session: of the bundle; measured if that is needed.
        calibration: one of CALIBRATION, or the table itself.
        track: shows progress.

    Attributes:
        table: once it was needed.
    """

    def __init__(self, session: SharedSession, calibration: str | LatencyTable, track: Track) -> None:
        if not isinstance(calibration, LatencyTable) and calibration not in CALIBRATION:
            raise InputError(f"calibration {calibration!r} is none of {', '.join(CALIBRATION)}.")
        self.table: LatencyTable | None = None
        self._session, self._calibration, self._track = session, calibration, track
        self._lock = threading.Lock()

    def find(self, target: LatencyTarget | None = None, context: int | None = None) -> LatencyTable:
        """The table to select by.

        Args:
            target, context: lengths that they name are measured too rather than extrapolated, if it comes to that.

        Raises:
            InputError: there is no table, and `calibration` is `never`.
        """
        with self._lock:
            if self.table is None:
                self.table = self._found() or self._measured(target, context)
            return self.table

    def _found(self) -> LatencyTable | None:
        if isinstance(self._calibration, LatencyTable):
            return self._calibration
        if self._calibration == "always":
            return None
        opening = self._session.opening
        command = f"flextron-export calibrate {opening.bundle.path} {opening.options}"
        device = opening.device()["id"]
        table = LatencyTable.load(opening.bundle, device, opening.target, opening.layout, opening.dtype)
        if table is not None:
            if table.caution:
                log.warning("%s Measure again: %s", table.caution, command)
            return table
        how = f"{opening.target}, {opening.layout}, {opening.dtype}"
        what = f"{opening.bundle.path} has no measurements of {how} on this device."
        if self._calibration == "never":
            raise InputError(what, fix=command)
        log.warning("%s Measuring now; this takes some seconds, once.", what)
        return None

    def _measured(self, target: LatencyTarget | None, context: int | None) -> LatencyTable:
        contexts, prompts = [*CONTEXTS], [*PROMPT_LENGTHS]
        if context is not None and context > max(contexts):
            contexts.append(context)
        if target is not None and target.prompt_length is not None and target.prompt_length > max(prompts):
            prompts.append(target.prompt_length)
        return measure(self._session.opening, self._session.get(), contexts, prompts, track=self._track)
