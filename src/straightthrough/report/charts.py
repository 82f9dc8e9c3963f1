"""Numbers to PNG: line charts in a light and a dark dress, and grids of small grey images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import image as png
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray


@dataclass(frozen=True)
class Line:
    """One line of a chart, a large marker if it has one point; a `group` shares a colour.

    `band` holds what lies below and above each point.
    """

    label: str
    group: int
    x: Sequence[float]
    y: Sequence[float | None]
    dashed: bool = False
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclass(frozen=True)
class Bar:
    """One bar of a chart, with what is written at its end."""

    label: str
    value: float
    text: str


@dataclass(frozen=True)
class Interval:
    """A value above 0 and its confidence limits."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One histogram of a chart: counts before and after, between evenly spaced ends.

    `values` are marked on the axis.
    """

    label: str
    before: Sequence[float]
    after: Sequence[float]
    ends: tuple[float, float]
    values: Sequence[float] = ()


@dataclass(frozen=True)
class Theme:
    """Colours of a chart; the lines' are told apart by colour-blind readers too."""

    background: str
    ink: str
    grid: str
    lines: tuple[str, ...]


# The colours of Okabe and Ito (2008), the lighter ones on the dark background.
LIGHT = Theme(
    "#ffffff",
    "#27303f",
    "#dfe3ea",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)
DARK = Theme(
    "#171c26",
    "#d5dbe6",
    "#333c4b",
    ("#56b4e9", "#e69f00", "#2fc79a", "#e3a1c6", "#f0e442", "#d55e00"),
)
MARKERS = "osD^vPX*"
MOST_TICKS = 14


def lines(series: Sequence[Line], x: str, y: str, theme: Theme, *, log: str = "") -> bytes:
    """Draw lines over a common axis, with ticks at their points; `log`, "x", "y" or "xy"."""
    legend = 0.25 * -(-sum(bool(line.label) for line in series) // 2)
    figure, axes = _canvas(theme, height=3.3 + legend)
    for line in series:
        slot = line.group % len(theme.lines)
        values = [np.nan if value is None else value for value in line.y]
        axes.plot(
            line.x,
            values,
            "--" if line.dashed else "-",
            label=line.label,
            color=theme.lines[slot],
            marker=MARKERS[slot % len(MARKERS)],
            markersize=4 if len(line.x) > 1 else 10,
            markerfacecolor=theme.background if line.dashed else theme.lines[slot],
            linewidth=1.8,
        )
        if line.band:
            axes.fill_between(line.x, *line.band, color=theme.lines[slot], alpha=0.2, linewidth=0)
    axes.set_xticks(_ticks({x for line in series for x in line.x}))
    for name in log:
        _logarithmic(axes, name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    figure.legend(loc="upper center", frameon=False, labelcolor=theme.ink, fontsize=9, ncols=2)
    return _save(figure, top=1 - legend / figure.get_figheight())


def bars(series: Sequence[Bar], x: str, theme: Theme) -> bytes:
    """Draw horizontal bars, the first on top."""
    figure, axes = _canvas(theme, height=0.9 + 0.5 * len(series))
    names = [bar.label for bar in series]
    axes.barh(names, [bar.value for bar in series], color=theme.lines[0], height=0.6)
    for row, bar in enumerate(series):
        axes.annotate(
            bar.text,
            (bar.value, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=theme.ink,
        )
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(x)
    return _save(figure)


def dots(
    rows: Sequence[str], series: Mapping[str, Sequence[float | None]], x: str, theme: Theme
) -> bytes:
    """Draw a row a name, the first on top, with one marker a series on a logarithmic axis."""
    columns = min(len(series), 5)
    legend = 0.1 + 0.25 * -(-len(series) // columns)
    figure, axes = _canvas(theme, height=1.05 + legend + 0.3 * len(rows))
    for slot, (label, values) in enumerate(series.items()):
        axes.plot(
            [np.nan if value is None else value for value in values],
            rows,
            MARKERS[slot % len(MARKERS)],
            label=label,
            color=theme.lines[slot % len(theme.lines)],
            markersize=6,
        )
    _logarithmic(axes, "x")
    axes.margins(y=0.5 / len(rows))
    axes.invert_yaxis()
    axes.set_xlabel(x)
    figure.legend(
        loc="upper center", frameon=False, labelcolor=theme.ink, fontsize=9, ncols=columns
    )
    return _save(figure, top=1 - legend / figure.get_figheight())


WIDE = 300
"""From a ratio of its ends on, an axis of half a page has ticks at powers of ten alone."""


def intervals(series: Sequence[Interval], x: str, theme: Theme) -> bytes:
    """Draw a row an interval, the first on top, on a logarithmic axis."""
    figure, axes = _canvas(theme, height=1.0 + 0.3 * len(series))
    for row, interval in enumerate(series):
        # What reaches down to 0 has no place on this axis: it leaves the picture.
        below = interval.value - max(interval.low, interval.value * 1e-3)
        axes.errorbar(
            interval.value,
            row,
            xerr=[[below], [interval.high - interval.value]],
            fmt="o",
            color=theme.lines[row > 0],
            markersize=6,
            capsize=3,
            linewidth=1.8,
        )
    axes.set_yticks(range(len(series)), [interval.label for interval in series])
    values = [interval.value for interval in series]
    _logarithmic(axes, "x")
    axes.set_xlim(min(values) / 2, 2 * max(interval.high for interval in series))
    low, high = axes.get_xlim()
    if high > WIDE * low:  # more labels have no place beside the names
        axes.xaxis.set_major_locator(LogLocator(subs=(1,)))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(x)
    return _save(figure)


def histograms(panels: Sequence[Panel], x: str, theme: Theme) -> bytes:
    """Draw panels in two columns, each over what it holds: before dashed, after filled."""
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(7.2, 0.5 + 1.7 * rows), dpi=160, facecolor=theme.background)
    before, after = theme.lines[:2]
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(rows, 2, place + 1)
        _dress(axes, theme)
        edges = np.linspace(*panel.ends, len(panel.after) + 1)
        axes.stairs(panel.after, edges, fill=True, color=after, alpha=0.6, label="after")
        axes.stairs(panel.before, edges, color=before, linestyle="--", label="before")
        held = np.nonzero(np.add(panel.before, panel.after))[0]
        if len(held):
            axes.set_xlim(edges[held[0]], edges[held[-1] + 1])
        for value in panel.values:
            axes.axvline(value, color=theme.ink, linewidth=0.8, linestyle=":")
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_title(panel.label, color=theme.ink, fontsize=10)
        if place >= len(panels) - 2:
            axes.set_xlabel(x)
    handles = axes.get_legend_handles_labels()
    figure.legend(
        *handles, loc="upper center", frameon=False, labelcolor=theme.ink, fontsize=9, ncols=2
    )
    return _save(figure, top=1 - 0.3 / figure.get_figheight())


def grid(images: NDArray[np.uint8], columns: int, gap: int = 1, side: int = 40) -> bytes:
    """Draw `(N, height, width)` images in rows of `columns`, pixel for pixel, dark on white.

    Images of a longer side that is below `side` are enlarged to no more than that.
    """
    zoom = max(1, side // max(images.shape[1:]))
    images = images.repeat(zoom, 1).repeat(zoom, 2)
    count, height, width = images.shape
    rows = -(-count // columns)
    step_y, step_x = height + gap, width + gap
    sheet = np.full((rows * step_y + gap, columns * step_x + gap), 255, np.uint8)
    for position, image in enumerate(images):
        row, column = divmod(position, columns)
        top, left = gap + row * step_y, gap + column * step_x
        sheet[top : top + height, left : left + width] = 255 - image
    buffer = io.BytesIO()
    png.imsave(buffer, sheet, cmap="gray", vmin=0, vmax=255, format="png")
    return buffer.getvalue()


def unpack(pictures: dict[str, Any]) -> NDArray[np.uint8]:
    """Return the images that a result's JSON holds."""
    raw = base64.b64decode(pictures["data"])
    return np.frombuffer(raw, np.uint8).reshape(pictures["shape"])


def _canvas(theme: Theme, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.2, height), dpi=160, facecolor=theme.background)
    axes = figure.add_subplot()
    _dress(axes, theme)
    return figure, axes


def _dress(axes: Any, theme: Theme) -> None:
    axes.set_facecolor(theme.background)
    axes.tick_params(colors=theme.ink, labelsize=9, length=0)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _ticks(points: set[float]) -> list[float]:
    """Return the points from left to right without those whose labels would overlap."""
    ticks: list[float] = []
    for point in sorted(points):
        if not ticks or point - ticks[-1] >= (max(points) - min(points)) / MOST_TICKS:
            ticks.append(point)
    return ticks


def _logarithmic(axes: Any, name: str) -> None:
    """Make the axis "x" or "y" logarithmic, its ticks plain numbers."""
    axes.set(**{f"{name}scale": "log"})
    axis = getattr(axes, f"{name}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _save(figure: Figure, top: float = 1.0) -> bytes:
    figure.tight_layout(rect=(0, 0, 1, top))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
