"""The command `lm-eval` with the model `flextron`: `python -m flextron_export.evaluation --model flextron ...`."""

from __future__ import annotations

import sys

from ..errors import FlextronError


def main() -> None:
    """Register the model, then hand over to the harness."""
    try:
        from . import harness  # noqa: F401
    except FlextronError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
