"""Every estimator on every model, as the page has it."""

import pytest

from page_results import point, vae_result, vae_run
from straightthrough.report.page import Chart
from straightthrough.studies.vae import gradient_page, page


@pytest.fixture
def vae():
    return vae_result()


def test_every_estimator_is_held_against_every_model(vae):
    bias, variance, _ = gradient_page.tables(vae)
    assert bias.columns == ["Model trained by", "a(tau=1.0)", "b()"]
    assert bias.rows == [
        ["Untrained", "0.01", "0.02"],
        ["A(tau=1.0)", "0.2", "0.6"],  # the means over two seeds
        ["B()", "0.25", "0.125"],
        ["A(tau=1.0), without bias", "0.4", "0.6"],
    ]
    assert variance.rows[1] == ["A(tau=1.0)", "5", "4"]
    assert "the same 2 test images" in bias.note
    assert "Compare within a row only." in bias.note
    assert "Bias does not average out" in bias.note


def test_the_order_is_said_as_it_is(vae):
    bias, *_ = gradient_page.tables(vae)
    assert bias.note.endswith("On 3 of 4 models the order is a(tau=1.0), b(), from the least up.")
    del vae["runs"][2]
    bias, *_ = gradient_page.tables(vae)
    assert bias.note.endswith("On all 3 models the order is a(tau=1.0), b(), from the least up.")


def test_what_was_not_measured_is_missing_and_not_ordered(vae):
    vae["runs"][2]["points"][-1]["errors"] = {}
    vae["runs"][0]["points"][0]["errors"]["b()"]["bias"] = None
    bias, *_ = gradient_page.tables(vae)
    assert [row[0] for row in bias.rows] == ["Untrained", "A(tau=1.0)", "A(tau=1.0), without bias"]
    assert bias.rows[0] == ["Untrained", "0.01", "–"]
    assert "On 2 of 3 models" in bias.note


def test_four_estimators_have_a_rank_correlation_with_what_they_reach(vae):
    names = ["a", "b", "c", "d"]
    vae["settings"]["estimators"] = names

    def errors(*biases):
        return {name: (bias, 1.0) for name, bias in zip(names, biases, strict=True)}

    start = point(0, 40.0, errors(1.0, 2.0, 3.0, 4.0))
    vae["runs"] = [
        vae_run("A", 0, [start, point(2, 20.0, errors(0.1, 0.2, 0.3, 0.4))]),
        vae_run("B", 0, [point(0, 40.0), point(2, 21.0, errors(0.4, 0.3, 0.2, 0.1))]),
        vae_run("C", 0, [point(0, 40.0), point(2, 22.0, errors(0.2, 0.1, 0.3, 0.4))]),
        vae_run("D", 0, [point(0, 40.0), point(2, 29.0, errors(0.1, 0.3, 0.2, 0.4))]),
    ]
    (bias, variance) = gradient_page.tables(vae)
    assert bias.columns[-1] == "Rank correlation"
    # Spearman: 1 - 6 sum d^2 / (4 (16 - 1)), with d^2 summing to 0, 0, 20, 2 and 2.
    assert [row[-1] for row in bias.rows] == ["1.00", "1.00", "-1.00", "0.80", "0.80"]
    assert "Rank correlation: Spearman's" in bias.note
    assert variance.columns[-1] == "d"
    assert [table.columns for table in page.tables(vae)][1:] == [bias.columns, variance.columns]


def test_what_the_bias_costs_stands_beside_what_training_reaches_with_it(vae):
    *_, cost = gradient_page.tables(vae)
    assert cost.rows == [
        ["A(tau=1.0)", "1", "25.00", "24.00", "-1.00", "6.50", "5.00"]  # of seed 0
    ]
    assert "From the best to the worst" not in cost.note
    vae["runs"].append(vae_run("B()", 0, [point(0, 40.0), point(2, 24.25)], without_bias=True))
    *_, cost = gradient_page.tables(vae)
    assert cost.rows[1] == ["B()", "1", "24.50", "24.25", "-0.25", "6.50", "6.50"]
    assert "it is 0.50 nats as they are, and 0.25 without bias." in cost.note
    vae["runs"][-1]["points"][-1]["test"] = None
    *_, cost = gradient_page.tables(vae)
    assert cost.rows[1][3:5] == ["–", "–"]


def test_the_picture_has_a_row_a_model_and_a_marker_an_estimator(vae):
    charts = [part for part in page.layout(vae).parts if isinstance(part, Chart)]
    rows, series, axis = charts[1].draw.args
    assert rows == ["Untrained", "A(tau=1.0)", "B()", "A(tau=1.0), without bias"]
    assert series == {"a(tau=1.0)": [0.01, 0.2, 0.25, 0.4], "b()": [0.02, 0.6, 0.125, 0.6]}
    assert axis == "relative squared bias"
