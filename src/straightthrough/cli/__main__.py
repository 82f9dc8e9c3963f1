"""The entry point: what is missing or wrong becomes one line on stderr and an exit code."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from ..core.errors import StraightThroughError

INTERRUPTED = 130  # what typer makes of Ctrl-C, without a word
EXTRA = ("typer", "rich", "matplotlib", "sklearn")


def main() -> None:
    """Run the command line; exits with 0 (fine), 1 (failed) or 2 (wrong use)."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        _exit(2, f"{', '.join(missing)} not installed; pip install 'straightthrough[studies]'")
    from .app import app
    from .console import Failure

    try:
        app(prog_name="straightthrough")
    except StraightThroughError as error:
        _exit(2, str(error))
    except Failure as error:
        _exit(1, str(error))
    except KeyboardInterrupt:
        _exit(1, "interrupted")
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            _exit(1, "interrupted")
        raise


def _exit(code: int, message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
