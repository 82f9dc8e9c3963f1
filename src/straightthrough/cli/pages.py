"""A study's or an audit's result in, its page out: one HTML file that needs nothing else.

Nothing is measured here, and only the result's JSON is read, so a page can be made again from
the `result.json` or `audit.json` beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..audit.advise import page as audit
from ..core.errors import ArgumentError
from ..report import Page, html
from ..studies.bias import page as bias
from ..studies.mask import page as mask
from ..studies.polynomial import page as polynomial
from ..studies.qat import page as qat
from ..studies.select import page as select
from ..studies.vae import page as vae
from ..studies.vqvae import page as vqvae

LAYOUTS = {
    "vae": vae.layout,
    "vqvae": vqvae.layout,
    "mask": mask.layout,
    "qat": qat.layout,
    "select": select.layout,
    "polynomial": polynomial.layout,
    "bias": bias.layout,
    "audit": audit.layout,
}
FILES = ("result.json", "audit.json")
"""Of a study, and of an audit."""


def layout(result: dict[str, Any]) -> Page:
    """Return the page of a study's or an audit's result, given as plain JSON values.

    Raises:
        ArgumentError: if something is missing that this version needs.
    """
    try:
        return LAYOUTS[result["header"]["study"]](result)
    except KeyError as error:
        raise ArgumentError(
            f"the result lacks {error}, it is of another version; run the study again"
        ) from error


def render(result: dict[str, Any]) -> str:
    """Return the page as HTML."""
    return html.render(layout(result))


def write(result: dict[str, Any], folder: Path) -> Path:
    """Write the JSON and `report.html` into `folder`, and return the page's path."""
    text = json.dumps(result, indent=1, allow_nan=False)
    name = FILES[result["header"]["study"] == "audit"]
    (folder / name).write_text(text, encoding="utf-8")
    return write_page(result, folder)


def write_page(result: dict[str, Any], folder: Path) -> Path:
    """Write `report.html` alone."""
    page = folder / "report.html"
    page.write_text(render(result), encoding="utf-8")
    return page


def read(folder: Path) -> dict[str, Any]:
    """Read the `result.json` in `folder` or, where there is none, the `audit.json`.

    Raises:
        ArgumentError: if there is none, or it is not the result of a study.
    """
    study, audited = (folder / name for name in FILES)
    path = audited if audited.exists() and not study.exists() else study
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = result["header"]["study"] in LAYOUTS
    except OSError as error:
        raise ArgumentError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise ArgumentError(
            f"{path} is not the result of a study, or of an audit of a function "
            f"({', '.join(LAYOUTS)})"
        )
    return result
