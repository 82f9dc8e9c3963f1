"""Advice as a picture: what a temperature does to the bias, and what a rule costs."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from ...core.errors import StraightThroughError
from ..compare.plot import MARKERS
from .candidate import ZERO, Candidate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

FLOOR = 1e-3
"""Where squared biases are drawn that are smaller, 0, or estimated to lie below it."""

HOTTEST = 1000.0
"""Temperatures from here on stand for the limit of an infinite one."""

APART = 1.5
"""From one tick of a temperature to the next, as a factor."""

MARGIN = 1.4
"""From the outermost points to the edges, so that their marks are whole."""


def draw(rows: Sequence[Candidate], path: str | PathLike[str] | None) -> Figure:
    """Draw each rule's bias over its temperature, and the least of each over what it costs."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StraightThroughError(
            "Advice.plot needs matplotlib; pip install 'straightthrough[studies]'"
        ) from None
    rules = _by_rule(rows)
    figure = Figure(figsize=(10.5, max(4.2, 1.0 + 0.24 * len(rules))), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.set_ylabel("squared bias / squared gradient")
    left.set_xlabel("temperature")
    right.set_xlabel("microseconds a backward, at the best temperature")
    taus = sorted({row.tau for row in rows if row.tau is not None and row.tau < HOTTEST})
    limit = 2 * max(taus, default=1.0)
    for (name, found), colour in zip(rules.items(), colours(len(rules)), strict=True):
        look = {"marker": MARKERS[list(rules).index(name) % len(MARKERS)], "color": colour}
        _over_temperature(left, name, found, look, limit)
        cost = 1e6 * found[0].seconds
        right.plot(cost, _place(found[0].relative_squared_bias), ls="", markersize=9, **look)
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.axhline(1.0, color="0.5", linestyle=":", label=ZERO if axes is left else None)
        axes.grid(alpha=0.3)
    hot = {limit: "limit"} if any((row.tau or 0) >= HOTTEST for row in rows) else {}
    _ticks(left.xaxis, {tau: f"{tau:g}" for tau in _apart(taus)} | hot)
    _ticks(right.xaxis, {value: f"{value:g}" for value in _round(*right.get_xlim())})
    _ticks(left.yaxis, {FLOOR: f"≤ {FLOOR:g}"} | {10.0**n: f"{10.0**n:g}" for n in range(-2, 1)})
    left.set_ylim(FLOOR / MARGIN, MARGIN * left.get_ylim()[1])
    figure.legend(loc="outside right upper", frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def colours(count: int) -> list[tuple[float, float, float]]:
    """Return so many colours, the hues of the circle, light and dark in turn."""
    return [colorsys.hsv_to_rgb(i / count, 0.9, (0.85, 0.55)[i % 2]) for i in range(count)]


def _by_rule(rows: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Return the rows by name, the best first."""
    rules: dict[str, list[Candidate]] = {}
    for row in rows:
        if row.rule is not None and not math.isnan(row.relative_squared_bias):
            rules.setdefault(row.name, []).append(row)
    return rules


def _over_temperature(
    axes: Axes, name: str, rows: Sequence[Candidate], look: dict[str, Any], limit: float
) -> None:
    """Draw a curve with its intervals, or a level for a rule without a temperature."""
    at = {row.tau if row.tau < HOTTEST else limit: row for row in rows if row.tau is not None}
    if not at:
        level = _place(rows[0].relative_squared_bias)
        axes.axhline(level, label=name, linestyle="--", **look)
        return
    taus = sorted(at)
    values = [_place(at[tau].relative_squared_bias) for tau in taus]
    low, high = zip(*(map(_place, at[tau].interval) for tau in taus), strict=True)
    reach = (
        [v - least for v, least in zip(values, low, strict=True)],
        [most - v for v, most in zip(values, high, strict=True)],
    )
    axes.errorbar(taus, values, reach, label=name, markersize=6, capsize=2, **look)


def _place(squared_bias: float) -> float:
    return max(squared_bias, FLOOR)


def _apart(taus: Sequence[float]) -> list[float]:
    """Return temperatures whose labels have a place side by side."""
    found: list[float] = []
    for tau in taus:
        if not found or tau >= APART * found[-1]:
            found.append(tau)
    return found


def _round(low: float, high: float) -> list[float]:
    """Return round numbers between two: powers of ten and, where these are few, more.

    Where there is none, those around them.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high < 30 * low else (1,)
    every = [step * 10.0**n for n in powers for step in steps]
    between = [value for value in every if low <= value <= high]
    return between or [max(v for v in every if v < low), min(v for v in every if v > high)]


def _ticks(axis: XAxis | YAxis, labels: dict[float, str]) -> None:
    """Put these ticks on an axis, and no others."""
    axis.set_ticks(list(labels), list(labels.values()))
    axis.set_ticks([], minor=True)
