"""Pages: everything a result holds, nothing from outside, nothing unescaped."""

import base64
import copy
import io
import json
from pathlib import Path

import pytest
from matplotlib.image import imread

from page_results import Reader, mask_result, vae_result
from straightthrough import ArgumentError
from straightthrough.cli import pages
from straightthrough.report import Table, markdown
from straightthrough.report.page import unbroken


@pytest.fixture
def vae():
    return vae_result()


@pytest.fixture
def mask():
    return mask_result()


@pytest.mark.parametrize("study", ["vae", "mask"])
def test_a_page_is_whole_and_needs_nothing_else(study, request):
    result = request.getfixturevalue(study)
    page = pages.render(result)
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


def test_what_comes_from_outside_is_escaped(vae):
    vae["header"]["command"] = "study <script>alert(1)</script>"
    vae["runs"][0]["rule"] = "'\"><img src=x>"
    page = pages.render(vae)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "A & B <fast>" in Reader(page).text


def test_only_an_interrupted_study_is_marked_as_partial(vae):
    assert "Partial report" not in pages.render(vae)
    vae["header"]["complete"] = False
    assert "Partial report" in pages.render(vae)


@pytest.mark.parametrize("study", ["vae", "mask"])
def test_a_study_interrupted_at_once_has_a_page_too(study, request):
    result = request.getfixturevalue(study)
    result["runs"] = [{**result["runs"][0], "points": []}]
    result["costs"] = []
    result["header"]["complete"] = False
    assert "Partial report" in pages.render(result)


def test_a_page_made_again_is_the_same(vae, tmp_path):
    page = pages.write(copy.deepcopy(vae), tmp_path)
    first = page.read_bytes()
    page.unlink()
    assert pages.write_page(pages.read(tmp_path), tmp_path) == page
    assert page.read_bytes() == first
    assert json.loads((tmp_path / "result.json").read_text()) == vae


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"header": {"study": "other"}}', "\xff"])
def test_what_is_no_result_is_refused(text, tmp_path):
    (tmp_path / "result.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArgumentError, match="is not the result of a study"):
        pages.read(tmp_path)


def test_the_numbers_of_a_quadratic_are_no_page(cli, tmp_path):
    assert cli("audit --output", tmp_path)[0] == 0
    code, _, err = cli("report", tmp_path)
    assert code == 2
    assert "audit.json is not the result of a study, or of an audit of a function (" in err


def test_a_result_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"result.json cannot be read: No such file"):
        pages.read(tmp_path)


def test_a_result_of_another_version_is_refused(vae):
    del vae["runs"][0]["without_bias"]
    with pytest.raises(ArgumentError, match="the result lacks 'without_bias', it is of another"):
        pages.render(vae)


@pytest.mark.parametrize(
    ("place", "value"),
    [(("runs", 0, "points"), 3), (("runs", 0, "rule"), None), (("header", "seconds"), "x")],
)
def test_a_damaged_result_is_refused_in_one_line(cli, vae, place, value, tmp_path):
    *above, last = place
    part = vae
    for each in above:
        part = part[each]
    part[last] = value
    (tmp_path / "result.json").write_text(json.dumps(vae))
    code, _, err = cli("report", tmp_path)
    assert code == 2
    assert err.startswith(f"error: no page can be made of what is in {tmp_path}")
    assert err.count("\n") == 1


COMMITTED = sorted((Path(__file__).parents[2] / "docs" / "studies" / "results").glob("*.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_result_is_of_a_whole_run_and_has_its_page(path, tmp_path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["header"]["complete"] is True
    assert result["header"]["command"].startswith("straightthrough study ")
    markdown.write(pages.layout(result), tmp_path / "page.md")
    guides = path.parent.parent.glob("*.md")
    assert any(f"_generated/studies/{path.stem}.md" in page.read_text("utf-8") for page in guides)


WIDEST = 98
"""Characters of a table's line that fit a page of 1200 pixels, and one of the docs."""


def width(table):
    """Characters that a table needs where lines are broken at spaces, two between columns."""
    columns = zip(table.columns, *table.rows, strict=True)
    pieces = [[part for cell in column for part in unbroken(cell).split(" ")] for column in columns]
    return sum(max(map(len, parts)) + 2 for parts in pieces)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_tables_fit_their_page(path):
    page = pages.layout(json.loads(path.read_text(encoding="utf-8")))
    widths = [width(part) for part in page.parts if isinstance(part, Table)]
    assert 0 < max(widths) <= WIDEST


def test_results_are_committed():
    assert {"bias", "polynomial"} <= {path.stem for path in COMMITTED}
