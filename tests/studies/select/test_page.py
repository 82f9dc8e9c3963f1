"""The page of the pixels that decide the class."""

import io

import numpy as np
from matplotlib import image

from page_results import IMAGES, Reader, grey, header
from straightthrough.cli import pages
from straightthrough.report.page import Pictures
from straightthrough.studies.select import page


def select_result():
    """Return two runs of one method, and one of another."""

    def run(method, seed, accuracy, chosen):
        first = {"together": 10.0, "accuracy": None, "fidelity": None}
        last = {"together": accuracy - 2, "accuracy": accuracy, "fidelity": accuracy + 1}
        points = [
            {"epoch": epoch, "seconds": 1.5, **point} for epoch, point in enumerate((first, last))
        ]
        whole = 96.0 + seed
        return {"method": method, "seed": seed, "whole": whole, "points": points, "chosen": chosen}

    return {
        "header": header("select"),
        "settings": {"data": "digits", "k": 2, "seeds": [0, 1], "epochs": 1},
        "images": IMAGES,
        "mean": grey((1, 3, 3), 100),
        "runs": [
            run("topk", 0, 70.0, [0, 1]),
            run("topk", 1, 74.0, [0, 8]),
            run("gumbel_topk", 0, 80.0, [4, 5]),
        ],
    }


def test_the_page_shows_the_best_first_with_its_spread():
    (table,) = page.tables(select_result())
    best = ["gumbel topk", "1", "1", "80.0", "81.0", "78.0", "1.5"]
    other = ["topk", "2", "1", "72.0 ± 2.8", "73.0 ± 2.8", "70.0 ± 2.8", "1.5 ± 0.0"]
    assert table.rows == [best, other]
    assert "whose accuracy is 96.5 %" in table.note
    shown = Reader(pages.render(select_result()))
    assert shown.cells == [cell for row in (table.columns, *table.rows) for cell in row]


def test_the_chosen_pixels_are_black_on_the_mean_image():
    (drawn,) = (part for part in page.layout(select_result()).parts if isinstance(part, Pictures))
    assert [name for name, _ in drawn.items] == ["gumbel topk", "topk"]
    sheet = (255 * image.imread(io.BytesIO(drawn.items[1][1]))[..., 0]).round().astype(int)
    zoom = (len(sheet) - 2) // 3
    one, other = (sheet[1:-1:zoom, left : left + 3 * zoom : zoom] for left in (1, 2 + 3 * zoom))
    faint = 255 - int(0.3 * 100)
    assert np.array_equal(one, [[0, 0, faint], [faint] * 3, [faint] * 3])
    assert np.array_equal(other, [[0, faint, faint], [faint] * 3, [faint, faint, 0]])


def test_a_page_of_nothing_measured():
    result = {**select_result(), "runs": []}
    assert Reader(pages.render(result)).cells == [*page.tables(result)[0].columns]
