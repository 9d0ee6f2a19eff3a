"""Opening a bundle on a target: the choices that calibration, runner and evaluation must make alike."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from ..bundle.manifest import Bundle
from ..errors import InputError
from ..targets import DEFAULT_TARGET, get_target, settle
from ..targets.cores import check_threads
from ..targets.session import Session
from .device import fingerprint
from .serial import SerialSession

if TYPE_CHECKING:
    from typing_extensions import Unpack


class How(TypedDict, total=False):
    """Keyword arguments that say how a bundle is to run.

    target: where, `onnxruntime-cpu` by default. layout, dtype: the target's own choice by default. threads: thread
    setting of the target, by default one per core; on a busy machine one thread can be faster than two. low_memory:
    leave the weights in the mapped file instead of rearranging them in private memory: slower, but the pages are shared
    with other processes and can be dropped.
    """

    target: str | None
    layout: str | None
    dtype: str | None
    threads: int | None
    low_memory: bool


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


class SharedSession:
    """The session of an opening: loaded when it is first needed, shared by threads, gone when it is closed."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self._session: Session | None = None
        self._closed = False
        self._lock = threading.RLock()

    def get(self) -> Session:
        """The session; InputError if it was closed, and what `Opening.session` raises."""
        with self._lock:
            if self._closed:
                raise InputError("The runner is closed.", fix="generate inside the `with` statement")
            if self._session is None:
                self._session = self.opening.session()
            return self._session

    @property
    def max_tokens(self) -> int:
        """Most tokens one sequence may hold."""
        return self.opening.max_tokens(self.get())

    def close(self) -> None:
        """Release the weights."""
        with self._lock:
            self._closed = True
            session, self._session = self._session, None
        if session is not None:
            session.close()


def open_bundle(bundle: str | Path | Bundle, *, hashes: bool = True, **how: Unpack[How]) -> Opening:
    """Open a bundle and `settle` layout and precision.

    Args:
        bundle: its directory.
        hashes: check the SHA-256 of every file, not only sizes.
        how: target, layout, dtype, threads, low_memory: see `How`.

    Raises:
        InputError: there is no such target, it has no such mode, or the number of threads cannot be.
        BundleError: the bundle is damaged, or does not hold what was asked for.
        TargetError: the target refuses the layout or precision.
    """
    target, threads = how.get("target") or DEFAULT_TARGET, how.get("threads")
    low_memory = how.get("low_memory", False)
    check_threads(threads)
    if low_memory and not get_target(target).LOW_MEMORY:
        raise InputError(f"Target {target} has no low-memory mode.", fix="leave it out")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, hashes=hashes)
    layout, dtype = settle(target, opened, how.get("layout"), how.get("dtype"))
    return Opening(opened, target, layout, dtype, threads, low_memory)
