"""Where the libraries that CMake builds from `plugins/` are found."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import MissingDependencyError

VARIABLE = "FLEXTRON_PLUGINS"
"""Environment variable with the directory of the libraries, for a build outside the usual places."""

KERNELS = "libflextron_plugins.so"
"""The CUDA kernels with their C ABI; the libraries for engines look for it in their own directory."""

OPERATORS = ("HeadSubsetAttention", "ElasticLinear", "ElasticFeedForward")
"""What the libraries implement, in the ONNX domain `flextron`."""


def find(name: str, *beside: str) -> Path:
    """The path of a library that has others beside it.

    Looks in $FLEXTRON_PLUGINS if that is set, else in `build/plugins` of a source checkout, then in `lib` of the Python
    environment. MissingDependencyError names what is missing in each place, and the operators.
    """
    if named := os.environ.get(VARIABLE):
        places = [Path(named)]
    else:
        places = [Path(__file__).resolve().parents[2] / "build" / "plugins", Path(sys.prefix) / "lib"]
    problems = []
    for place in places:
        missing = [each for each in (name, *beside) if not (place / each).is_file()]
        if not missing:
            return place / name
        problems.append(f"{' and '.join(missing)} cannot be found in {place}")
    raise MissingDependencyError(f"{'; '.join(problems)}. {_HAS}.", cause="it is not built", fix=build_command(name))


def cannot_load(path: Path, cause: object) -> MissingDependencyError:
    """The error for a library that is there and does not load."""
    return MissingDependencyError(f"{path} cannot be loaded. {_HAS}.", cause=str(cause), fix=build_command(path.name))


def build_command(name: str) -> str:
    """How a library is built."""
    target = name.removeprefix("lib").removesuffix(".so")
    build = f"cmake -S . -B build -G Ninja && cmake --build build --target {target}"
    return f"{build}, or set {VARIABLE} to the directory of {name}"


_HAS = f"It has the operators {', '.join(OPERATORS)}"
