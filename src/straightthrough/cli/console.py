"""What every command shares: exit codes, where output goes, JSON, tables, folders."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from ..core.errors import ArgumentError, StraightThroughError

PIPE_WIDTH = 120
INTERRUPTED = 130  # what typer makes of Ctrl-C, without a word
UsageError: Any = typer.BadParameter.__base__  # whose place in typer changed between its versions


class Failure(Exception):
    """What was asked rightly and failed; one line on stderr, and exit code 1."""


def run(app: typer.Typer, name: str) -> None:
    """Run a command line: what is wrong becomes one line on stderr and an exit code.

    Exits with 0 (fine), 1 (failed) or 2 (wrong use).
    """
    if sys.stdout is None:  # as it is where a shell closed it
        sys.stdout = io.StringIO()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # as of a dash, where the encoding has none
    try:
        code = app(prog_name=name, standalone_mode=False)
    except UsageError as error:
        # A point or, of "Did you mean 'list'?", a question mark ends it.
        said = error.format_message().rstrip(".?").replace(". Did you", "; did you")
        where = error.ctx.command_path if error.ctx else name
        _exit(2, f"{said[:1].lower()}{said[1:]}; see {where} --help")
    except StraightThroughError as error:
        _exit(2, str(error))
    except Failure as error:
        _exit(1, str(error))
    except OSError as error:  # as of a full disk
        said = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        _exit(1, said or str(error))  # what is not the system's has its own words
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        _exit(1, "interrupted")
    sys.exit(code)


def _exit(code: int, message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    json.dump(value, sys.stdout, indent=1, allow_nan=False)
    print()


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False
) -> None:
    """Print a table on stdout; with `numbers` all columns but the first are right-aligned."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for position, name in enumerate(columns):
        table.add_column(name, justify="right" if numbers and position else "left")
    for row in rows:
        table.add_row(*row)
    # A pipe has no width; a terminal and the variable COLUMNS have, unless they say 0.
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = shutil.get_terminal_size((PIPE_WIDTH, 0)).columns if wide else PIPE_WIDTH
    Console(markup=False, highlight=False, width=width).print(table)
    print()


def inform(message: str) -> None:
    """Say something on stderr."""
    print(message, file=sys.stderr)


def names(text: str) -> list[str]:
    """Split a comma-separated list.

    Raises:
        ArgumentError: if nothing is in it.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ArgumentError(f"a comma-separated list must name something, got {text!r}")
    return parts


def writable(folder: Path) -> Path:
    """Make the folder, write a file into it, and return it.

    Raises:
        ArgumentError: if that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ArgumentError(f"cannot write into {folder}: {error.strerror}") from error
    return folder
