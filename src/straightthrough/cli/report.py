"""`straightthrough report`: make a page again from the result beside it, or of several one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import ArgumentError, StraightThroughError
from ..report import merge
from . import pages
from .console import Json, print_json, writable


def main(
    folders: Annotated[
        list[Path], typer.Argument(help="Studies' output folders, with result.json.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder of what several are merged into.")
    ] = None,
    json: Json = False,
) -> None:
    """Make report.html again from a study's result.json, or merge the runs of several."""
    results = [pages.read(folder) for folder in folders]
    with _blaming(folders):
        if output is not None:
            page = pages.write(merge(results), writable(output))
        elif len(folders) == 1:
            page = pages.write_page(results[0], writable(folders[0]))
        else:
            raise ArgumentError(f"{len(folders)} folders need an --output to be merged into")
    if json:
        print_json({"report": str(page)})
    else:
        print(page)


@contextlib.contextmanager
def _blaming(folders: list[Path]) -> Iterator[None]:
    """Blame the results for what no page can be made of, as where one was edited or is damaged.

    Raises:
        ArgumentError: where something is raised that is not ours.
    """
    try:
        yield
    except StraightThroughError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ArgumentError(
            f"no page can be made of what is in {', '.join(map(str, folders))}, which this version "
            f"did not write so ({type(error).__name__}: {error}); run the study again"
        ) from error
