"""Pages and pictures: everything a result holds, nothing from outside, nothing unescaped."""

import base64
import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from straightthrough import ArgumentError, report
from straightthrough.report import charts, runs
from straightthrough.report.charts import DARK, LIGHT, Bar, Line


def grey(shape, value=0):
    data = base64.b64encode(np.full(shape, value, np.uint8).tobytes()).decode()
    return {"shape": list(shape), "data": data}


def header(study):
    return {
        "study": study,
        "command": f"straightthrough study {study} --seeds 0,1",
        "started": "2026-01-02T03:04:05+00:00",
        "environment": {"torch": "9.8.7", "processor": "A & B <fast>"},
        "seconds": 12.34,
        "complete": True,
    }


def point(epoch, test, **others):
    return {
        "epoch": epoch,
        "train": test - 1,
        "test": test,
        "sampled": test + 2,
        "cosine": 0.5,
        "mean_cosine": 0.75,
        "seconds": 2.0 * epoch,
        **others,
    }


def vae_run(rule, seed, points):
    return {
        "estimator": rule.lower(),
        "rule": rule,
        "seed": seed,
        "rate": 0.001,
        "published": None,
        "points": points,
        "reconstructions": grey((2, 4, 4)),
        "samples": grey((16, 4, 4)),
    }


@pytest.fixture
def vae():
    return {
        "header": header("vae"),
        "settings": {"data": "digits", "folder": None, "seeds": [0, 1], "epochs": 2},
        "latents": 4,
        "categories": 8,
        "parameters": 1234567,
        "exact": True,
        "source": None,
        "originals": grey((2, 4, 4), 255),
        "runs": [
            vae_run("A(tau=1.0)", 0, [point(0, 40.0), point(2, 25.0)]),
            vae_run("A(tau=1.0)", 1, [point(0, 41.0), point(2, 27.0)]),
            vae_run("B()", 0, [point(0, 40.0), point(2, 24.5, cosine=None)]),
        ],
    }


@pytest.fixture
def mask():
    points = [
        {"epoch": e, "train_error": 9.0, "test_error": 11.5, "live": 33.3, "seconds": 1.0}
        for e in (0, 1)
    ]
    run = {"network": "masked", "seed": 0, "weights": 9, "points": points}
    return {
        "header": header("mask"),
        "settings": {"data": "digits", "epochs": 1},
        "costs": [
            {"name": "no mask", "milliseconds": 1.5, "share": 0.0},
            {"name": "hard", "milliseconds": 6.0, "share": 75.0},
        ],
        "runs": [{**run, "inputs": grey((1, 4, 4), 128)}],
    }


class Reader(HTMLParser):
    """Collects what a page shows, what it loads, and whether its tags are closed."""

    VOID = frozenset({"meta", "img", "source"})

    def __init__(self, page):
        super().__init__()
        self.text, self.loads, self.open, self.cells = "", [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [values[key] for key in ("src", "srcset", "href", "data") if key in values]
        if tag in ("th", "td"):
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data
        if self.open and self.open[-1] in ("th", "td"):
            self.cells[-1] += data


def pixels(png):
    return (imread(io.BytesIO(png))[..., :3] * 255).round().astype(int)


@pytest.mark.parametrize("study", ["vae", "mask"])
def test_a_page_is_whole_and_needs_nothing_else(study, request):
    result = request.getfixturevalue(study)
    page = report.render(result)
    reader = Reader(page)
    assert reader.open == []
    assert reader.loads
    for load in reader.loads:
        kind, _, data = load.partition(",")
        assert kind == "data:image/png;base64"
        assert imread(io.BytesIO(base64.b64decode(data))).size
    assert "url(" not in page
    assert "@import" not in page
    assert f"straightthrough study {study} --seeds 0,1" in reader.text
    assert "9.8.7" in reader.text
    assert "2026-01-02" in reader.text
    assert "None" not in reader.text


def test_the_table_holds_means_and_deviations_over_seeds(vae):
    (table,) = report.vae.tables(vae)
    assert table.rows == [
        [
            "A(tau=1.0)",
            "2",
            "2",
            "25.00 ± 1.41",
            "26.00 ± 1.41",
            "0.500 ± 0.000",
            "0.7500 ± 0.0000",
            "4.0 ± 0.0",
        ],
        ["B()", "1", "2", "23.50", "24.50", "–", "0.7500", "4.0"],
    ]
    cells = Reader(report.render(vae)).cells
    assert cells == [cell for row in (table.columns, *table.rows) for cell in row]


def test_the_lead_names_the_best_of_the_first_seed(vae):
    assert "Best on the test images of the first seed: B(), 24.50 nats" in report.render(vae)


def test_published_numbers_stand_beside_ours(vae):
    vae["source"] = "A. Author (2020)"
    for run in vae["runs"][:2]:
        run["published"] = 29.5
    table, _ = report.vae.tables(vae)
    assert table.columns[3:] == ("Last epoch", "Published", "Difference")
    assert table.rows == [
        ["A(tau=1.0)", "2", "2", "28.00 ± 1.41", "29.50", "-1.50"],
        ["B()", "1", "2", "26.50", "–", "–"],
    ]
    assert "Published: A. Author (2020)." in table.note
    assert "-1.50" in Reader(report.render(vae)).cells
    vae["runs"][0]["points"][-1]["sampled"] = vae["runs"][1]["points"][-1]["sampled"] = None
    assert report.vae.tables(vae)[0].rows[0][3:] == ["–", "29.50", "–"]


def test_a_page_without_enumeration_or_pictures_leaves_them_out(vae):
    vae["exact"], vae["originals"] = False, None
    (table,) = report.vae.tables(vae)
    assert table.columns == ("Estimator", "Seeds", "Epochs", "Train -ELBO", "Test -ELBO", "Seconds")
    assert table.rows[1] == ["B()", "1", "2", "23.50", "24.50", "4.0"]
    reader = Reader(report.render(vae))
    assert "exact" not in reader.text
    assert "osine" not in reader.text
    assert "Reconstructions" not in reader.text
    assert len(reader.loads) == 2  # one chart in two dresses


def test_the_mask_page_shows_networks_and_costs(mask):
    networks, costs = report.mask.tables(mask)
    assert networks.rows == [["masked", "1", "1", "9.00", "11.50", "33.3", "1.0"]]
    assert costs.rows == [["no mask", "1.50", "0"], ["hard", "6.00", "75"]]
    cells = Reader(report.render(mask)).cells
    assert cells == [
        cell for table in (networks, costs) for row in (table.columns, *table.rows) for cell in row
    ]


def test_markdown_says_what_the_page_says(vae, tmp_path):
    vae["runs"][2]["rule"] = "B | C"
    vae["header"]["complete"] = False
    report.markdown.write(report.layout(vae), tmp_path / "vae.md")
    text = (tmp_path / "vae.md").read_text()
    (table,), bar = report.vae.tables(vae), r"\|"
    for row in (table.columns, *table.rows):
        cells = [cell.replace("|", bar).replace(" ± ", "\u00a0±\u00a0") for cell in row]
        assert f"| {' | '.join(cells)} |" in text
    assert table.note in text
    assert "## Training" in text
    assert "**Partial report.**" in text
    assert "```text\nstraightthrough study vae --seeds 0,1\n```" in text
    assert "| Torch | 9.8.7 |" in text
    drawn = re.findall(r"^!\[(.+)\]\((.+)\)$", text, re.MULTILINE)
    assert [name for _, name in drawn] == [f"vae-{n}.png" for n in range(1, len(drawn) + 1)]
    assert len(drawn) == 2 + 2 + 2
    for _, name in drawn:
        assert imread(tmp_path / name).size


def test_what_comes_from_outside_is_escaped(vae):
    vae["header"]["command"] = "study <script>alert(1)</script>"
    vae["runs"][0]["rule"] = "'\"><img src=x>"
    page = report.render(vae)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "A & B <fast>" in Reader(page).text


def test_only_an_interrupted_study_is_marked_as_partial(vae):
    assert "Partial report" not in report.render(vae)
    vae["header"]["complete"] = False
    assert "Partial report" in report.render(vae)


@pytest.mark.parametrize("study", ["vae", "mask"])
def test_a_study_interrupted_at_once_has_a_page_too(study, request):
    result = request.getfixturevalue(study)
    result["runs"] = [{**result["runs"][0], "points": []}]
    result["costs"] = []
    result["header"]["complete"] = False
    assert "Partial report" in report.render(result)


def test_runs_that_got_less_far_are_not_averaged_with_whole_ones(vae):
    groups = runs.grouped(vae, "rule")
    groups["A(tau=1.0)"][1]["points"].pop()
    assert runs.rows(groups, {"test": 1})[0] == ["A(tau=1.0)", "1", "2", "25.0"]
    line, _ = runs.lines(groups, "test", suffix="test")
    assert line == Line("A(tau=1.0) test", 0, [0, 2], [40.5, 25.0])
    later, _ = runs.lines(groups, "test", first=1)
    assert later == Line("A(tau=1.0)", 0, [2], [25.0])


def test_a_page_made_again_is_the_same(vae, tmp_path):
    page = report.write(copy.deepcopy(vae), tmp_path)
    first = page.read_bytes()
    page.unlink()
    assert report.write_page(report.read(tmp_path), tmp_path) == page
    assert page.read_bytes() == first
    assert json.loads((tmp_path / "result.json").read_text()) == vae


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"header": {"study": "other"}}', "\xff"])
def test_what_is_no_result_is_refused(text, tmp_path):
    (tmp_path / "result.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArgumentError, match="is not the result of a study"):
        report.read(tmp_path)


def test_a_result_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"result.json cannot be read: No such file"):
        report.read(tmp_path)


def test_a_grid_shows_every_pixel_dark_on_white():
    images = np.array([[[0, 255]], [[100, 0]], [[255, 255]]], np.uint8)
    sheet = pixels(charts.grid(images, columns=2))
    assert np.array_equal(sheet[..., 0], sheet[..., 2])
    assert sheet[..., 0].tolist() == [
        [255] * 7,
        [255, 255, 0, 255, 155, 255, 255],
        [255] * 7,
        [255, 0, 0, 255, 255, 255, 255],
        [255] * 7,
    ]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_charts_draw_each_line_in_its_colour(theme):
    series = [Line("a", 0, [0, 1, 2], [3.0, None, 1.0]), Line("b", 1, [0, 1], [1.0, 2.0], True)]
    sheet = pixels(charts.lines(series, "epoch", "nats", theme))
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    for code in (theme.background, theme.lines[0], theme.lines[1]):
        assert tuple(bytes.fromhex(code[1:])) in colours
    assert tuple(bytes.fromhex(theme.lines[2][1:])) not in colours


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


COMMITTED = sorted((Path(__file__).parent.parent / "docs" / "studies" / "results").glob("*.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_result_is_of_a_whole_run_and_has_its_page(path, tmp_path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["header"]["complete"] is True
    assert result["header"]["command"].startswith("straightthrough study ")
    report.markdown.write(report.layout(result), tmp_path / "page.md")
    pages = path.parent.parent.glob("*.md")
    assert any(f"_generated/studies/{path.stem}.md" in page.read_text("utf-8") for page in pages)


def test_results_are_committed():
    assert {"bias", "polynomial"} <= {path.stem for path in COMMITTED}
