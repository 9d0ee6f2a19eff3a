"""Errors that a user sees: what happened, the likely cause, the next command.

Every error carries the exit code of its kind, so that scripts can tell them apart (docs/command-line.md lists them).
"""

from __future__ import annotations


class FlextronError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        what: one sentence saying what happened.
        cause: the likely cause, or None.
        fix: the next command or action, or None.
    """

    exit_code = 1

    def __init__(self, what: str, *, cause: str | None = None, fix: str | None = None) -> None:
        self.what, self.cause, self.fix = what, cause, fix
        parts = [what]
        if cause:
            parts.append(f"  likely cause: {cause}")
        if fix:
            parts.append(f"  next: {fix}")
        super().__init__("\n".join(parts))


class InputError(FlextronError):
    """Something the user passed cannot be used: a path, a text, an option value."""

    exit_code = 3


class UnsupportedModelError(FlextronError):
    """The model's architecture, or one of its options, is not one this package can make elastic."""

    exit_code = 4


class CheckpointError(FlextronError):
    """A checkpoint directory is missing, damaged, or of another schema."""

    exit_code = 5


class BundleError(FlextronError):
    """A bundle is missing, damaged, altered, from a newer version, or lacks what was asked of it."""

    exit_code = 6


class VerificationError(FlextronError):
    """An exported graph does not compute what the model computes."""

    exit_code = 7


class NoBudgetFitsError(FlextronError):
    """No budget meets the target on this device."""

    exit_code = 8


class MissingDependencyError(FlextronError):
    """An optional library is not installed; the message names the extra that brings it."""

    exit_code = 9


class TargetError(FlextronError):
    """A target refuses a combination, cannot build it, or cannot open an engine here."""

    exit_code = 10


def problems(kind: type[FlextronError], subject: str, found: list[str], fix: str | None = None) -> None:
    """Raise `kind` naming every problem at once; return if there is none."""
    if found:
        raise kind(f"{subject}: " + "; ".join(found), fix=fix)
