"""Advice as a picture: what a temperature does to the error, and what a rule costs."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

from ...core.errors import StraightThroughError
from ..compare.plot import MARKERS
from .candidate import Candidate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(rows: Sequence[Candidate], batch: int, path: str | PathLike[str] | None) -> Figure:
    """Draw each rule's error over its temperature, and the least of each over what it costs."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullLocator
    except ImportError:
        raise StraightThroughError(
            "Advice.plot needs matplotlib; pip install 'straightthrough[studies]'"
        ) from None
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.grid(alpha=0.3)
    left.set(xlabel="temperature", ylabel=f"mean squared error, batch {batch}")
    right.set_xlabel("microseconds a backward, at its best temperature")
    for number, (name, found) in enumerate(_by_rule(rows).items()):
        look = {"marker": MARKERS[number % len(MARKERS)], "color": f"C{number % 10}"}
        right.plot(1e6 * found[0].seconds, found[0].mse, linestyle="", markersize=9, **look)
        _over_temperature(left, name, found, look)
    figure.legend(loc="outside right upper", frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _by_rule(rows: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Return the rows by name, the best first; a log axis has no place for an estimate below 0."""
    rules: dict[str, list[Candidate]] = {}
    for row in rows:
        if row.mse > 0:
            rules.setdefault(row.name, []).append(row)
    return rules


def _over_temperature(
    axes: Axes, name: str, rows: Sequence[Candidate], look: dict[str, Any]
) -> None:
    """Draw a curve with its intervals, or a level for a rule without a temperature."""
    if rows[0].tau is None:
        axes.axhline(rows[0].mse, label=name, linestyle="--", **look)
        return
    rows = sorted(rows, key=_tau)
    taus, values = [_tau(row) for row in rows], [row.mse for row in rows]
    below = [min(row.mse - row.interval[0], 0.9 * row.mse) for row in rows]
    above = [row.interval[1] - row.mse for row in rows]
    axes.errorbar(taus, values, (below, above), label=name, markersize=6, capsize=2, **look)


def _tau(row: Candidate) -> float:
    return cast(float, row.tau)
