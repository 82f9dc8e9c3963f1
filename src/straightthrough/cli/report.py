"""`straightthrough report`: make a page again from the result beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Json, print_json, writable


def main(
    folder: Annotated[Path, typer.Argument(help="A study's output folder, with result.json.")],
    json: Json = False,
) -> None:
    """Make report.html again from a study's result.json."""
    from .. import report

    result = report.read(folder)
    page = report.write_page(result, writable(folder))
    if json:
        print_json({"report": str(page)})
    else:
        print(page)
