"""The page of the vector-quantized autoencoder."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...report import charts
from ...report.charts import Line
from ...report.page import Page, Table
from ...report.runs import Groups, average, deviation, ends, grouped, lines, rows

FIELDS = {"test_error": 4, "train_error": 4, "perplexity": 1, "used": 0, "seconds": 1}
COLUMNS = ("Quantizer", "Runs", "Epochs", "Test error", "Train error", "Perplexity", "Used")
REVIVAL = ", revival"


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too."""
    groups = grouped(result, "quantizer")
    note = (
        "Errors: mean squared, of grey values from 0 to 1, over all pixels. Perplexity: the "
        f"exponential of the entropy of how often each of the {result['codes']} codes is chosen. "
        "Used: how many are chosen at all. Both of all tokens of the training images. Seconds of "
        f"training alone. All at the last checkpoint, the best first.{deviation(groups)}"
    )
    table = sorted(rows(groups, FIELDS), key=lambda row: row[3])
    return [Table((*COLUMNS, "Seconds"), table, note)]


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    settings, groups = result["settings"], grouped(result, "quantizer")
    page = Page(f"Vector-quantized autoencoder on {settings['data']}", _lead(result), result)
    page.heading("Results")
    page.table(tables(result)[0])
    if groups:
        _training(page, groups)
        _usage(page, groups)
        _pictures(page, groups, result["originals"])
    return page.close(settings)


def _lead(result: dict[str, Any]) -> str:
    return (
        f"{result['images']['description']} An image becomes {result['tokens']} tokens, and each "
        f"of these one of {result['codes']} codes. All autoencoders are the same but for what "
        f"quantizes the tokens."
    )


def _parts(groups: Groups) -> dict[str, Groups]:
    """Return the runs by the chart that they are in, by what it says of them."""
    found: dict[str, Groups] = {}
    for name, runs in groups.items():
        of_codebook = "codebooks with revival" if name.endswith(REVIVAL) else "codebooks without it"
        part = of_codebook if ", " in name else "codes without a codebook"
        found.setdefault(part, {})[name] = runs
    return found


def _training(page: Page, groups: Groups) -> None:
    page.heading("Training", "The untrained model, far above the others, is left out.")
    for part, shown in _parts(groups).items():
        series = lines(shown, "test_error", first=1)
        page.chart(
            partial(charts.lines, series, "epoch", "test error"),
            f"Test error over epochs, one line a quantizer: {part}",
        )


def _usage(page: Page, groups: Groups) -> None:
    page.heading(
        "Which codes are used",
        "The share of each code among all tokens of the training images, the most frequent first; "
        "of the first seed. A line ends where the codes that are used do.",
    )
    for part, shown in _parts(groups).items():
        series = []
        for slot, (name, runs) in enumerate(shown.items()):
            shares = [share for share in runs[0]["shares"] if share > 0]
            series.append(Line(name, slot, [*range(1, len(shares) + 1)], shares))
        page.chart(
            partial(charts.lines, series, "code, by how often it is chosen", "share", log="y"),
            f"Share of each code, one line a quantizer: {part}",
        )


def _pictures(page: Page, groups: Groups, originals: dict[str, Any]) -> None:
    ordered = sorted(groups, key=lambda name: _error(groups[name]))
    page.heading(
        "Reconstructions",
        "Test images, and under each what comes back; of the first seed, the best first.",
    )
    shown = charts.unpack(originals)
    page.pictures(
        [
            (name, charts.grid(np.concatenate([shown, charts.unpack(back)]), len(shown)))
            for name in ordered
            if (back := groups[name][0]["reconstructions"])
        ]
    )
    page.heading(
        "Codes",
        "What the decoder makes of the codes that are chosen most, the most frequent first, where "
        "all tokens are that code; of the first seed.",
    )
    page.pictures(
        [
            (name, charts.grid(charts.unpack(codes), 16))
            for name in ordered
            if (codes := groups[name][0]["codes"])
        ]
    )


def _error(runs: list[dict[str, Any]]) -> float:
    return average([point["test_error"] for point in ends(runs)]) or 0.0
