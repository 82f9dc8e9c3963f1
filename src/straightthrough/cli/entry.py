"""The entry point of `straightthrough`, which says in one line where the extra is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

EXTRA = ("typer", "rich", "matplotlib", "sklearn")


def load() -> Callable[[], None]:
    """Import every command; return what runs them, and exits with 0 (fine), 1 (failed) or 2."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        listed = ", ".join(missing)
        print(
            f"error: {listed} not installed; pip install 'straightthrough[studies]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from .app import app
    from .console import run

    return partial(run, app, "straightthrough")


def main() -> None:
    """Run the command line; exits with 0 (fine), 1 (failed) or 2 (wrong use)."""
    load()()
