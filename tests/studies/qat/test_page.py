"""The page of quantized networks."""

from page_results import IMAGES, Reader, header
from straightthrough.cli import pages
from straightthrough.studies.qat import page


def run(name, seed, accuracy, epoch=2, *, same=None, shipped=None):
    last = {"train_loss": 0.25, "test_loss": 0.5, "moved": 12.5, "same": same, "seconds": 1.0}
    points = [{"epoch": e, "accuracy": accuracy, **last} for e in (0, epoch)]
    weights = {"before": [0, 3, 0, 1], "after": [0, 1, 2, 1], "values": [-1.0, 1.0]}
    weights = None if ": " in name else weights
    return {
        "network": name,
        "seed": seed,
        "points": points,
        "weights": weights,
        "shipped": shipped,
    }


def qat_result():
    """Return two seeds of floats and of one network, one unfinished, and two that round."""
    shipped = {"bytes": 1234, "milliseconds": 0.03125, "share": 2.5, "same": 99.5}
    runs = [
        run("float", 0, 98.0),
        run("W2A2 lsq", 0, 95.0, shipped=shipped),
        run("W2A2 ste", 0, 91.0, epoch=1),
        run("Adam: ste", 0, 96.0, same=100.0),
        run("Adam: poly", 0, 96.5, same=99.0),
        run("float", 1, 98.5),
        run("W2A2 lsq", 1, 96.0),
    ]
    settings = {"data": "digits", "precisions": ["W4A4", "W2A2"], "rules": ["lsq", "ste"]}
    return {
        "header": header("qat"),
        "settings": {**settings, "rounding": True, "seeds": [0, 1], "epochs": 2},
        "images": IMAGES,
        "rates": {"Adam": 0.001},
        "runs": runs,
    }


def test_the_page_shows_precisions_by_rules_what_ships_and_the_rounding():
    result = qat_result()
    accuracy, loss, shipped, rounding = page.tables(result)
    assert accuracy.rows == [
        ["W4A4", "–", "–"],
        ["W2A2", "95.50 ± 0.71", "91.00, epoch 1"],
    ]
    assert "from the same start: 98.25 ± 0.35." in accuracy.note
    assert loss.rows[1][1] == "0.2500 ± 0.0000"
    assert shipped.rows == [["W2A2", "1,234", "0.031", "2.50", "99.5"]]
    assert rounding.rows == [
        ["ste", "1", "2", "100.00", "12.5", "0.2500", "0.5000", "96.00"],
        ["poly", "1", "2", "99.00", "12.5", "0.2500", "0.5000", "96.50"],
    ]
    assert "Adam, rate 0.001" in rounding.note
    shown = Reader(pages.render(result))
    assert shown.cells == [
        cell
        for table in page.tables(result)
        for row in (table.columns, *table.rows)
        for cell in row
    ]
    assert "Weights, before and after" in shown.text


def test_the_page_of_what_was_not_measured():
    result = {**qat_result(), "runs": []}
    shown = Reader(pages.render(result))
    assert "98" not in shown.cells
    assert "Weights, before and after" not in shown.text
