"""`straightthrough report`: make a page again from the result beside it, or of several one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import ArgumentError
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
