"""An audit as a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from ...core.errors import StraightThroughError
from .row import Row

if TYPE_CHECKING:
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

WIDEST = 42
"""Characters of a line that the legend beside the axes leaves room for above them."""

MARKERS = "osD^vP*X<>hp"
ROUNDING = 1e-12
"""Squares below this share of the largest one are rounding errors of float32, drawn as 0."""

CLOSE = 10
"""Values within this factor have few powers of ten beside them, and labels between these."""


def draw(rows: Sequence[Row], title: str, path: str | PathLike[str] | None) -> Figure:
    """Draw squared bias against variance on logarithmic axes that have a place for 0."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StraightThroughError(
            "Audit.plot needs matplotlib; pip install 'straightthrough[studies]'"
        ) from None
    longest = max(len(row.name) for row in rows)
    size = max(6.4, 4.6 + 0.08 * longest), max(4.0, 0.3 + 0.21 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", xlabel="squared bias", ylabel="variance")
    lines = (textwrap.fill(line, WIDEST) for line in title.splitlines())
    axes.set_title("\n".join(lines), fontsize="medium")
    axes.grid(alpha=0.3)
    largest = max(max(row.mse for row in rows), 0.0)
    bias = _place(axes.xaxis, [row.bias_squared for row in rows], largest)
    variance = _place(axes.yaxis, [row.variance for row in rows], largest)
    axes.set(xlim=(min(bias) / 3, max(bias) * 3), ylim=(min(variance) / 3, max(variance) * 3))
    for i, row in enumerate(rows):
        (line,) = axes.plot(bias[i], variance[i], MARKERS[i % len(MARKERS)], markersize=9)
        line.set_label(row.name)
        if row.standard_errors is not None:
            right, up = row.standard_errors.bias_squared, row.standard_errors.variance
            axes.errorbar(bias[i], variance[i], up, right, fmt="none", ecolor=line.get_color())
    figure.legend(loc="outside right upper", frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _place(axis: XAxis | YAxis, values: Sequence[float], largest: float) -> list[float]:
    """Return where values stand on a logarithmic axis: 0 a decade below all, and so labelled."""
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

    positive = [value for value in values if value > ROUNDING * largest]
    first = 10.0 ** math.floor(math.log10(min(positive, default=1.0)))
    zero = first / 10 if len(positive) < len(values) else 0.0
    shown = LogFormatterSciNotation()
    shown.set_axis(axis)

    def label(x: float, _: float) -> str:
        if zero and math.isclose(x, zero):
            return "0"
        return shown(x) if positive and x > 5 * zero else ""

    places = [value if value in positive else zero for value in values]
    between = (1, 2, 5) if max(places) < CLOSE * min(places) else (1,)
    axis.set_major_locator(LogLocator(subs=between, numticks=20))
    axis.set_major_formatter(label)
    axis.set_minor_formatter(NullFormatter())
    return places
