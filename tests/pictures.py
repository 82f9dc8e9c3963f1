"""Where the words of a picture stand."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg


def texts(figure):
    """Return the boxes of all words of a picture, tick labels and legends too."""
    FigureCanvasAgg(figure).draw()
    found = {}
    for axes in figure.axes:
        labels = [axes.title]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = axis.get_view_interval()
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            shown = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
            labels += [axis.label, *shown]
        for label in labels:
            if label.get_visible() and label.get_text():
                found[label] = label.get_window_extent()
    for legend in figure.legends:
        found |= {text: text.get_window_extent() for text in legend.get_texts()}
    return found


def check_legible(figure):
    """Check that all words are in the picture, and none upon another or upon a panel."""
    boxes = texts(figure)
    crossing = [
        (one.get_text(), other.get_text())
        for one, other in itertools.combinations(boxes, 2)
        if boxes[one].overlaps(boxes[other])
    ]
    assert crossing == []
    inside = [figure.bbox.contains(*corner) for b in boxes.values() for corner in (b.min, b.max)]
    assert all(inside)
    for text, box in boxes.items():
        panels = [axes.get_window_extent() for axes in figure.axes]
        assert not any(panel.overlaps(box) for panel in panels), text.get_text()
    return boxes
