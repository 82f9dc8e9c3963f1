"""What the install left in the place of kernels where it built none, and how to have them."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import suppress
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "_kernels"


def why_not(folder: Path = FOLDER) -> str | None:
    """Return why the install built no kernels, if it built none."""
    note = folder / "why_not.txt"
    return note.read_text(encoding="utf-8") if note.exists() else None


def mend(folder: Path = FOLDER) -> str | None:
    """Return the command that builds them once what is missing is there, if one does."""
    if why_not(folder) is None or sys.platform not in ("linux", "darwin"):
        return None
    return f"pip install --force-reinstall --no-deps --no-cache-dir {_source()}"


def _source() -> str:
    """Return where pip found the sources of this library (PEP 610), else its name."""
    try:
        text = metadata.distribution("straightthrough").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        text = None
    found = json.loads(text or "{}")
    url = found.get("url", ".whl")
    if url.endswith(".whl"):
        return "straightthrough"
    return f"-e {url}" if found.get("dir_info", {}).get("editable") else url


def warn_once(reason: str, folder: Path = FOLDER) -> None:
    """Warn that there are no kernels, at the first import after an install, in one process.

    The install left a mark, which is removed. Nothing is said where it can't be: who can't write
    there can't mend it either.
    """
    with suppress(OSError):
        (folder / "unsaid").unlink()
        warnings.warn(
            f"straightthrough has no CPU kernels here and is slower without: {reason}. "
            f"When that is mended: {mend(folder)}",
            RuntimeWarning,
            stacklevel=2,
        )
