"""The picture of an audit: numbers between which one can read what lies there."""

import pytest

from pictures import check_legible
from straightthrough.audit.compare.plot import draw
from straightthrough.audit.compare.row import Row


@pytest.mark.parametrize("largest", [1.5, 3.2, 9.0, 40.0])
def test_an_axis_has_two_numbers_at_least(largest):
    rows = [
        Row(name, 2.3 * size, 3.6 * size, 0.5, size, 1.0, 1.0)
        for name, size in (("reinmax", 1.0), ("darn", largest))
    ]
    figure = draw(rows, "two", None)
    check_legible(figure)
    axes = figure.axes[0]
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
        assert sum(low <= at <= high for at, label in ticks if label.get_text()) >= 2
