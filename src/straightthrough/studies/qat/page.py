"""The page of quantized networks."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...report import charts
from ...report.charts import Panel
from ...report.page import Page, Table
from ...report.runs import Groups, deviation, ends, grouped, lines, rows, spread

FLOAT, MISSING = "float", "–"
REACH = 3.0
"""How many largest values of the grid a histogram goes to."""

NOTE = (
    "Rows: the bits of weights and of inputs of the inner layers; the first and the last layer "
    "have 8 of each. Floats, trained on for as many epochs from the same start: {floats}. At the "
    "last checkpoint."
)
LOSS_NOTE = "Mean cross-entropy of training images. Floats: {floats}."
SHIPPED_NOTE = (
    "Of the first seed, under {rule}; other rules ship the same graph. Bytes: of the state dict, "
    "weights packed, scales and biases included. ms: of one image in onnxruntime on one thread, "
    "the least of many, which took turns with the network of floats; how many times as long that "
    "is stands beside it. Same class: test images that get from onnxruntime the class which the "
    "network gives them."
)
ROUNDING_NOTE = (
    "Weights of the inner layers of 2 bits, scales held, all else floats; {kind}, rate {rate:g}. "
    "All networks see the same batches. Same codes: weights that end with the code which the first "
    "row gives them. Moved: weights whose code is not that of the start."
)
MATCHED_NOTE = (
    " Its rate, its start: those with which a rule should train as the first row does, were the "
    "steps small."
)
FIELDS = {"same": 2, "moved": 1, "train_loss": 4, "test_loss": 4, "accuracy": 2}
COLUMNS = ("Runs", "Epochs", "Same codes %", "Moved %", "Train loss", "Test loss", "Accuracy %")


def tables(result: dict[str, Any]) -> list[Table]:
    """Return what the terminal shows too: accuracies, losses, what ships, and the rounding."""
    groups = _networks(result)
    found = []
    if result["settings"]["precisions"]:
        found += [
            _matrix(result, groups, "Accuracy %", "accuracy", 2, NOTE),
            _matrix(result, groups, "Train loss", "train_loss", 4, LOSS_NOTE),
        ]
    found.append(_shipped(result, groups))
    return found + [_rounding(result, kind, own) for kind, own in _roundings(result).items()]


def layout(result: dict[str, Any]) -> Page:
    """Return the page."""
    settings, groups = result["settings"], _networks(result)
    page = Page(f"Quantized networks on {settings['data']}", _lead(result), result)
    kinds = _roundings(result)
    found = tables(result)
    first, last = found[: len(found) - len(kinds)], found[len(found) - len(kinds) :]
    page.heading("Bits and rules")
    for table in first[:-1]:
        page.table(table)
    _training(page, result, groups)
    page.heading("What ships")
    page.table(first[-1])
    _weights(page, result, groups)
    if kinds:
        page.heading(
            "Do rules for the rounding end apart?",
            "Beyond what another learning rate and another start would do too.",
        )
        for table in last:
            page.table(table)
    return page.close(settings)


def _lead(result: dict[str, Any]) -> str:
    return (
        f"{result['images']['description']} Two convolutions and two linear layers are trained as "
        "floats, and from there on for as many epochs once for each precision and rule, the rate "
        "falling to 0 by a cosine."
    )


def _networks(result: dict[str, Any]) -> Groups:
    return {n: runs for n, runs in grouped(result, "network").items() if ": " not in n}


def _roundings(result: dict[str, Any]) -> dict[str, Groups]:
    """Return by optimizer the runs by what rounds."""
    found: dict[str, Groups] = {}
    for name, runs in grouped(result, "network").items():
        kind, _, variant = name.partition(": ")
        if variant:
            found.setdefault(kind, {})[variant] = runs
    return found


def _matrix(
    result: dict[str, Any], groups: Groups, title: str, field: str, digits: int, note: str
) -> Table:
    """Return a row a precision and a column a rule."""
    settings = result["settings"]

    def cell(name: str) -> str:
        if name not in groups:
            return MISSING
        last = ends(groups[name])
        text = spread([point[field] for point in last], digits)
        epoch = last[0]["epoch"]
        return text if epoch == settings["epochs"] else f"{text}, epoch {epoch}"

    rules = settings["rules"]
    table = [[p, *(cell(f"{p} {rule}") for rule in rules)] for p in settings["precisions"]]
    note = note.format(floats=cell(FLOAT)) + deviation(groups)
    return Table((title, *rules), table, note)


def _shipped(result: dict[str, Any], groups: Groups) -> Table:
    found = {name: run["shipped"] for name, runs in groups.items() for run in runs[:1]}
    table = [
        [
            name.split()[0],
            f"{each['bytes']:,}",
            f"{each['milliseconds']:.3f}",
            f"{each['share']:.2f}",
            f"{each['same']:.1f}",
        ]
        for name, each in found.items()
        if each
    ]
    rule = "".join(result["settings"]["rules"][:1])
    columns = ("Network", "Bytes", "ms", "times floats", "Same class %")
    return Table(columns, table, SHIPPED_NOTE.format(rule=rule))


def _rounding(result: dict[str, Any], kind: str, groups: Groups) -> Table:
    note = ROUNDING_NOTE.format(kind=kind, rate=result["rates"][kind])
    if any(name.endswith("its rate") for name in groups):
        note += MATCHED_NOTE
    return Table((kind, *COLUMNS), rows(groups, FIELDS), note + deviation(groups))


def _of_first_rule(result: dict[str, Any], groups: Groups) -> Groups:
    first = (FLOAT, *result["settings"]["rules"][:1])
    return {name: runs for name, runs in groups.items() if name.split()[-1] in first}


def _training(page: Page, result: dict[str, Any], groups: Groups) -> None:
    shown = _of_first_rule(result, groups)
    floats = {name: shown.pop(name) for name in [*shown] if name == FLOAT}
    series = [*lines(floats, "train_loss", dashed=True), *lines(shown, "train_loss")]
    if series:
        page.chart(
            partial(charts.lines, series, "epoch", "train loss", log="y"),
            "Training loss over epochs, one line a precision",
        )


def _weights(page: Page, result: dict[str, Any], groups: Groups) -> None:
    panels = [
        Panel(name, known["before"], known["after"], (-REACH, REACH), known["values"])
        for name, runs in _of_first_rule(result, groups).items()
        if (known := runs[0]["weights"])
    ]
    if panels:
        page.heading(
            "Weights, before and after",
            "Of the largest layer and the first seed, as floats: those that quantization rounds. "
            "The unit is the largest value of the grid, of each channel's scale as it is then; of "
            "the floats, their largest size at the start. Dotted: the values that weights become, "
            "where they are few.",
        )
        unit = "weight / largest value of the grid"
        page.chart(
            partial(charts.histograms, panels, unit),
            "Histograms of the weights before and after training, one panel a precision",
        )
