"""One result out of several, for studies whose runs were made by several processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..core.errors import ArgumentError
from .runs import identity

OWN = ("header", "runs", "costs")
"""What each result has of its own; of the costs, times that it measured, the first's stay."""


def merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the first result with the runs of all, in order.

    Settings that are lists, such as seeds, are united, commands listed, and seconds added up.

    Raises:
        ArgumentError: if the results differ in anything else or have no runs, or a run is in two of
            them.
    """
    first, *others = results
    if not others:
        return first
    study = first["header"]["study"]
    for other in others:
        if found := difference(study, other["header"]["study"], "study"):
            raise ArgumentError(f"results to be merged must be of one study, got {found}")
    if "runs" not in first:
        raise ArgumentError(f"results of {study!r} have no runs, and are not merged")
    for other in others:
        if found := difference(_fixed(first), _fixed(other)):
            raise ArgumentError(f"results to be merged must agree but for their runs, got {found}")
    runs = [run for result in results for run in result["runs"]]
    known = [identity(run) for run in runs]
    for run in known:
        if known.count(run) > 1:
            named = ", ".join(f"{key} {value}" for key, value in run.items())
            raise ArgumentError(f"two of the results hold {named}; leave one of them out")
    headers = [result["header"] for result in results]
    settings = {
        key: _united(result["settings"][key] for result in results)
        if isinstance(value, list)
        else value
        for key, value in first["settings"].items()
    }
    header = {
        **first["header"],
        "command": "\n".join(header["command"] for header in headers),
        "started": min(header["started"] for header in headers),
        "seconds": sum(header["seconds"] for header in headers),
        "complete": all(header["complete"] for header in headers),
    }
    return {**first, "header": header, "settings": settings, "runs": runs}


def _fixed(result: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same in all results."""
    settings = result["settings"].items()
    return {
        **{key: value for key, value in result.items() if key not in OWN},
        "settings": {key: value for key, value in settings if not isinstance(value, list)},
        "environment": result["header"]["environment"],
    }


def difference(one: Any, other: Any, path: str = "") -> str:
    """Say where two JSON values differ first: `settings.epochs 3 and 5`, or nothing."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        found = (difference(one[key], other[key], f"{path}.{key}".lstrip(".")) for key in one)
        return next(filter(None, found), "")
    return "" if one == other else f"{path} {_short(one)} and {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _united(lists: Iterable[list[Any]]) -> list[Any]:
    return list(dict.fromkeys(item for items in lists for item in items))
