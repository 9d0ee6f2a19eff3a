"""`python -m flextron_export` is the command `flextron-export`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="flextron-export")
