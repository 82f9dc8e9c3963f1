"""Charts and grids, pixel by pixel."""

import io
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from straightthrough.report import charts
from straightthrough.report.charts import DARK, LIGHT, Bar, Interval, Line, Panel


def pixels(png):
    return (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)


def test_a_grid_shows_every_pixel_dark_on_white():
    images = np.array([[[0, 255]], [[100, 0]], [[255, 255]]], np.uint8)
    sheet = pixels(charts.grid(images, columns=2, side=1))
    assert np.array_equal(sheet[..., 0], sheet[..., 2])
    assert sheet[..., 0].tolist() == [
        [255] * 7,
        [255, 255, 0, 255, 155, 255, 255],
        [255] * 7,
        [255, 0, 0, 255, 255, 255, 255],
        [255] * 7,
    ]


def test_small_images_are_enlarged_and_others_are_not():
    images = np.array([[[0, 255, 0], [100, 0, 7]]], np.uint8)
    assert np.array_equal(
        pixels(charts.grid(images, columns=1, side=7)),
        pixels(charts.grid(images.repeat(2, 1).repeat(2, 2), columns=1, side=6)),
    )


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_charts_draw_each_line_in_its_colour(theme):
    series = [Line("a", 0, [0, 1, 2], [3.0, None, 1.0]), Line("b", 1, [0, 1], [1.0, 2.0], True)]
    sheet = pixels(charts.lines(series, "epoch", "nats", theme))
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    for code in (theme.background, theme.lines[0], theme.lines[1]):
        assert tuple(bytes.fromhex(code[1:])) in colours
    assert tuple(bytes.fromhex(theme.lines[2][1:])) not in colours


def test_ticks_are_at_the_points():
    png = charts.lines([Line("a", 0, [0, 3, 7, 10], [1.0] * 4)], "x", "y", LIGHT)
    sheet = pixels(png)[80:]  # without the legend
    colours = [list(bytes.fromhex(code[1:])) for code in (LIGHT.grid, LIGHT.lines[0])]
    ruled, drawn = ((abs(sheet - colour) <= 3).all(-1).sum(0) for colour in colours)

    def middles(columns):
        groups = np.split(columns, np.nonzero(np.diff(columns) > 1)[0] + 1)
        return [group.mean() for group in groups]

    verticals = middles(np.nonzero(ruled > 0.5 * ruled.max())[0])
    markers = middles(np.nonzero(drawn > 6)[0])
    assert len(markers) == 4
    assert verticals == pytest.approx(markers, abs=2)


def test_ticks_whose_labels_would_overlap_are_left_out():
    assert charts._ticks({float(x) for x in range(0, 251, 25)}) == list(range(0, 251, 25))
    assert charts._ticks({0.0, 100.0, 200.0, 203.0}) == [0, 100, 200]
    assert charts._ticks({5.0}) == [5]


def test_a_band_is_shaded_and_an_axis_may_be_logarithmic():
    band = ([1.0, 10.0, 100.0], [2.0, 20.0, 200.0])
    line = Line("a", 0, [0.1, 1.0, 10.0], [1.5, 15.0, 150.0], band=band)
    straight = pixels(charts.lines([line], "x", "y", LIGHT, log="xy"))
    shade = [204, 227, 240]  # a fifth of the line's colour on white
    rows, columns = np.nonzero((abs(straight - shade) <= 1).all(-1))
    assert len(rows) > 1000
    assert np.corrcoef(rows, columns)[0, 1] < -0.95  # straight where both axes are logarithmic
    curved = pixels(charts.lines([line], "x", "y", LIGHT, log="x"))
    rows, columns = np.nonzero((abs(curved - shade) <= 1).all(-1))
    assert np.corrcoef(rows, columns)[0, 1] > -0.95


@pytest.mark.parametrize("least", [1e-3, 1e-2, 0.1, 0.5])
def test_labels_of_intervals_do_not_overlap(monkeypatch, least):
    monkeypatch.setattr(charts, "_save", lambda figure: figure.tight_layout() or figure)
    name = "ReinMaxCV(tau=0.7, eta=1.5, samples=32)"
    series = [Interval(f"{name} {i}", value, value, value) for i, value in enumerate((least, 2.0))]
    figure = charts.intervals(series, "squared bias", LIGHT)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    places = zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
    boxes = [text.get_window_extent() for text, at in places if low <= at <= high]
    assert len(boxes) > 1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_a_single_point_is_a_large_marker():
    def ink(xs):
        sheet = pixels(charts.lines([Line("a", 0, xs, [1.0] * len(xs))], "x", "y", LIGHT))
        return int((sheet == list(bytes.fromhex(LIGHT.lines[0][1:]))).all(-1).sum(0).max())

    assert ink([1.0]) > 1.5 * ink([1.0, 2.0])


def test_bars_are_as_long_as_their_values():
    sheet = pixels(charts.bars([Bar("a", 1.0, "1 ms"), Bar("b", 3.0, "3 ms")], "ms", LIGHT))
    colour = list(bytes.fromhex(LIGHT.lines[0][1:]))
    widths = (sheet == colour).all(-1).sum(1)
    short, long = sorted(set(widths[widths > 20]))[0], widths.max()
    assert long / short == pytest.approx(3, rel=0.02)


def test_histograms_fill_after_and_cut_what_is_empty():
    def drawn(after):
        panels = [Panel(f"p{n}", [0, 4, 4, 0], after, (-2.0, 2.0), [0.5]) for n in range(3)]
        return pixels(charts.histograms(panels, "weight", LIGHT))

    def filled(sheet):
        colour = np.array(list(bytes.fromhex(LIGHT.lines[1][1:])))
        mixed = (0.6 * colour + 0.4 * 255).round()
        return int((abs(sheet - mixed) <= 2).all(-1).sum())

    # The empty ends are left out, so that both halves are wide; half of the counts, half filled.
    whole, half = drawn([0, 4, 4, 0]), drawn([0, 4, 0, 0])
    assert filled(half) / filled(whole) == pytest.approx(0.5, abs=0.05)
    assert filled(whole) > 0.2 * whole.shape[0] * whole.shape[1]
