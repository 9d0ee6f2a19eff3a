"""Opening a bundle on a target: the choices that calibration and the runner must make alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.manifest import Bundle
from ..errors import InputError
from ..targets import get_target, settle
from ..targets.cores import check_threads
from ..targets.session import Session
from .device import fingerprint
from .serial import SerialSession


@dataclass(frozen=True)
class Opening:
    """A bundle and how it is going to run."""

    bundle: Bundle
    target: str
    layout: str
    dtype: str
    threads: int | None
    low_memory: bool = False

    def session(self) -> Session:
        """Load it, for several threads. TargetError, MissingDependencyError or BundleError if that fails."""
        session = get_target(self.target).open_session(
            self.bundle, layout=self.layout, dtype=self.dtype, threads=self.threads, low_memory=self.low_memory
        )
        return session if session.concurrent else SerialSession(session)

    def device(self) -> dict[str, Any]:
        """`fingerprint` of this device for this way of running."""
        return fingerprint(self.target, self.threads, low_memory=self.low_memory)

    @property
    def options(self) -> str:
        """Command-line options that open the bundle in this way."""
        threads = f" --threads {self.threads}" if self.threads else ""
        mode = " --low-memory" if self.low_memory else ""
        return f"--target {self.target} --layout {self.layout} --dtype {self.dtype}{threads}{mode}"

    def max_tokens(self, session: Session) -> int:
        """Most tokens one sequence may hold: the model's positions, or fewer if an engine was built for fewer."""
        return min(self.bundle.architecture.max_positions, session.max_capacity)


def open_bundle(
    bundle: str | Path | Bundle,
    target: str,
    layout: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    *,
    low_memory: bool = False,
    hashes: bool = True,
) -> Opening:
    """Open a bundle and `settle` layout and precision.

    Raises:
        InputError: there is no such target, it has no such mode, or the number of threads cannot be.
        BundleError: the bundle is damaged, or does not hold what was asked for.
        TargetError: the target refuses the layout or precision.
    """
    check_threads(threads)
    if low_memory and not get_target(target).LOW_MEMORY:
        raise InputError(f"Target {target} has no low-memory mode.", fix="leave it out")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, hashes=hashes)
    layout, dtype = settle(target, opened, layout, dtype)
    return Opening(opened, target, layout, dtype, threads, low_memory)
