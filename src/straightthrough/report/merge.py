"""One result out of several, for studies whose runs were made by several processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..core.errors import ArgumentError


def merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the first result with the runs of all, in order.

    Settings that are lists, such as seeds, are united, commands listed, and seconds added up.

    Raises:
        ArgumentError: if the results differ in anything else, or a run is in two of them.
    """
    first = results[0]
    for other in results[1:]:
        _check("", _fixed(first), _fixed(other))
    runs = [run for result in results for run in result["runs"]]
    names = [f"{run['rule']}, seed {run['seed']}" for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"two of the results hold {name}; leave one of them out")
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
        **{key: value for key, value in result.items() if key not in ("header", "runs")},
        "study": result["header"]["study"],
        "settings": {key: value for key, value in settings if not isinstance(value, list)},
        "environment": result["header"]["environment"],
    }


def _check(path: str, one: Any, other: Any) -> None:
    """Raise where two values differ, and say where."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            _check(f"{path}.{key}".lstrip("."), one[key], other[key])
    elif one != other:
        raise ArgumentError(
            f"results to be merged must agree but for their runs, got {path} "
            f"{_short(one)} and {_short(other)}"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _united(lists: Iterable[list[Any]]) -> list[Any]:
    return list(dict.fromkeys(item for items in lists for item in items))
