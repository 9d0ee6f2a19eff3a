"""Elastic language models: one nested weight set, a graph or engine for every budget, chosen by a latency target.

from flextron_export import Runner, build, calibrate, elastify, export, route, verify
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

# Imported on first use, so that the package imports with none of the optional libraries present.
_VERBS = {
    "elastify": "training.elastify",
    "route": "training.route",
    "export": "exporting",
    "verify": "targets.verify",
    "build": "targets.build",
    "calibrate": "runtime.calibrate",
    "plan": "planning",
    "report": "reporting.report",
    "evaluate": "evaluation.evaluate",
    "Runner": "runtime.runner",
}
__all__ = [
    "Runner",
    "__version__",
    "build",
    "calibrate",
    "elastify",
    "evaluate",
    "export",
    "plan",
    "report",
    "route",
    "verify",
]

if TYPE_CHECKING:
    from .evaluation.evaluate import evaluate
    from .exporting import export
    from .planning import plan
    from .reporting.report import report
    from .runtime.calibrate import calibrate
    from .runtime.runner import Runner
    from .targets.build import build
    from .targets.verify import verify
    from .training.elastify import elastify
    from .training.route import route


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(import_module(f".{_VERBS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
