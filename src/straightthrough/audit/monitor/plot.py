"""What a monitor saw, as small multiples."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from ...core.errors import StraightThroughError
from .sinks import Observation
from .summary import TITLES, by_operator

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WHOLE = {"saturation", "sparsity", "code_use", "collision_rate", "frozen"}
"""Shares that are drawn from 0 to 1; flips, which become rare, have a scale of their own."""

LONG = 14
INK, GRID, BLUE = "#27303f", "#dfe3ea", "#0072b2"


def draw(observations: Sequence[Observation], path: str | PathLike[str] | None) -> Figure:
    """Draw a row an operator and a column a quantity, all over the same steps."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StraightThroughError(
            "Monitor.plot needs matplotlib; pip install 'straightthrough[studies]'"
        ) from None
    series, operators, columns = by_operator(observations)
    names = [name.replace(".", ".\n") if len(name) > LONG else name for name in operators]
    longest = max(len(line) for name in names for line in name.split("\n"))
    size = max(1.3, 0.3 + 0.08 * longest) + 1.9 * len(columns), 0.8 + 1.2 * len(operators)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(operators), len(columns), sharex=True, squeeze=False)
    for operator, name, row in zip(operators, names, grid, strict=True):
        for quantity, axes in zip(columns, row, strict=True):
            _panel(axes, series.get((operator, quantity), []))
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9, color=INK)
    for quantity, column in zip(columns, grid.T, strict=True):
        column[0].set_title(TITLES[quantity], fontsize=10, color=INK)
        lowest = next(axes for axes in reversed(column) if axes.lines)
        lowest.tick_params(labelbottom=True)
    figure.supxlabel("step", fontsize=10, color=INK)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _panel(axes: Axes, points: Sequence[Observation]) -> None:
    """Draw one series with its last value, or leave the place empty."""
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not points:
        axes.tick_params(labelleft=False, labelbottom=False)
        axes.set_yticks([])
        return
    steps, values = [seen.step for seen in points], [seen.value for seen in points]
    axes.plot(steps, values, color=BLUE, linewidth=1.4)
    axes.plot(steps[-1], values[-1], "o", color=BLUE, markersize=3.5)
    top = 1.0 if points[0].quantity in WHOLE else max(values) or 1.0
    axes.set_ylim(-0.06 * top, 1.3 * top)
    axes.locator_params(axis="x", nbins=4, integer=True, min_n_ticks=1)
    axes.locator_params(axis="y", nbins=4)
    axes.margins(x=0.06)
    axes.grid(color=GRID, linewidth=0.8)
    axes.annotate(
        f"{values[-1]:.3g}",
        (1, 1),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=8,
        color=BLUE,
        backgroundcolor="white",
    )
