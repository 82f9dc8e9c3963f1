"""What advice says: the criterion, the verdict, tables, JSON, and a picture one can read."""

import dataclasses
import json
import math
import sys
from dataclasses import dataclass

import pytest
import torch

import straightthrough as st
from pictures import check_legible
from straightthrough.audit import Advice, Candidate, advise
from straightthrough.audit.advise import plot
from straightthrough.audit.advise.candidate import zero
from straightthrough.audit.advise.criterion import ranked
from straightthrough.audit.advise.runner import TEMPERATURES
from straightthrough.estimators import (
    MVE,
    CategoricalEstimator,
    GappedST,
    GumbelST,
    ReinMax,
    StraightThrough,
)


def quadratic(size=3):
    generator = torch.Generator().manual_seed(0)
    q, b, eta = (torch.randn(*s, generator=generator) for s in ((size, size), (size,), (size,)))
    return (lambda z: ((z @ (q.T @ q)) * z).sum(-1) + z @ b), eta


def row(rule, bias, error, reach=0.0, cosine=0.9):
    """A candidate where the squared gradient is 2."""
    return Candidate(
        name="name",
        rule=rule,
        tau=vars(rule).get("tau"),
        bias_squared=2 * bias,
        variance=0.0,
        mse=2 * error,
        gradient_squared=2.0,
        cosine=cosine,
        interval=(bias - reach, bias + reach),
        seconds=1e-5,
    )


def advice_of(*rows, batch=8):
    return Advice(tuple(ranked(rows)), (), batch, 1.0, 0, True, 9, "enumerated", 1.0)


def test_bias_goes_first_then_the_error_then_noise_then_the_order_given():
    least = row(GumbelST(0.1), 0.100, 9.0)
    noisy = row(GumbelST(0.2), 0.109, 3.0)
    equal = row(ReinMax(), 0.101, 3.1)  # within 5% of the noisy one's error, without noise
    other = row(StraightThrough(), 0.105, 3.1)
    biased = row(ReinMax(2.0), 0.111, 0.2)
    worse = row(ReinMax(3.0), 0.2, 0.3)
    still = zero(2.0)
    away = row(ReinMax(4.0), 0.0, 0.0, cosine=-0.1)
    rows = [away, worse, biased, still, noisy, least, equal, other]
    order = [equal, other, noisy, least, biased, worse, still, away]
    assert ranked(rows) == order
    assert ranked(rows[::-1]) == [other, equal, *order[2:]]


def test_the_least_bias_is_that_of_the_least_upper_limit():
    lucky = row(GumbelST(0.1), 0.05, 9.0, reach=0.1)
    sure = row(ReinMax(), 0.1, 1.0)
    assert ranked([lucky, sure]) == [sure, lucky]
    assert ranked([row(GumbelST(0.1), 0.05, 9.0, reach=0.01), sure])[-1] is sure


def test_a_candidate_is_measured_against_the_gradient():
    found = row(ReinMax(), 0.25, 1.5)
    assert (found.relative_squared_bias, found.relative_error) == (0.25, 1.5)
    assert math.isnan(zero(0.0).relative_squared_bias)


def test_the_verdict_names_who_is_as_good_and_who_is_quieter():
    best = row(ReinMax(), 0.20, 0.3, reach=0.1)
    tie = row(ReinMax(2.0), 0.35, 0.4, reach=0.05)
    worse = row(ReinMax(3.0), 0.45, 0.5, reach=0.05)
    away = row(ReinMax(4.0), 0.1, 0.1, cosine=-0.1)
    advice = advice_of(best, tie, worse, away)
    assert advice.best is best
    assert advice.ties == (tie,)
    assert advice.verdict == (
        "ReinMax(tau=1.0): relative squared bias 0.2000 (0.1000 to 0.3000), cosine 0.9000, 10 us "
        "a backward. Not told apart from it by their bias: ReinMax(tau=2.0)."
    )
    assert advice_of(row(ReinMax(), 0.2, 0.3)).verdict.endswith("10 us a backward.")
    many = Advice((best, *[tie] * 5), (), 8, 1.0, 0, True, 9, "enumerated", 1.0)
    assert many.verdict.endswith("ReinMax(tau=2.0) and 2 more.")
    quiet = advice_of(
        row(ReinMax(), 0.1, 5.0), row(ReinMax(1.5), 0.2, 0.8), row(MVE(1.0), 0.3, 0.4)
    )
    assert quiet.verdict.endswith(
        " Its error at a batch of 8 is 5; if that is too noisy, ReinMax(tau=1.5) has 0.8, at a "
        "squared bias of 0.2000."
    )
    lost = advice_of(away, zero(2.0))
    assert lost.best is away
    assert lost.verdict.startswith("No rule points along the gradient")
    certain = advise(lambda z: z.sum(-1), torch.zeros(1), estimators=["darn"])
    assert certain.verdict.startswith("The gradient is 0, and nothing relative to it; DARN()")


def test_the_criterion_is_stated():
    loss, eta = quadratic()
    scaled = advise(loss, eta, estimators=["reinmax"], batch=32)
    assert "Ranked by relative squared bias" in scaled.criterion
    assert "scaled to the gradient's norm" in scaled.criterion
    assert "average over 32 draws" in scaled.criterion
    plain = advise(loss, eta, estimators=["reinmax"], rescale=False)
    assert "scaled" not in plain.criterion
    assert "average over 1 draw;" in plain.criterion
    assert json.loads(scaled.to_json())["criterion"] == scaled.criterion


def test_table_and_json_say_the_same():
    loss, eta = quadratic()
    advice = advise(loss, eta, estimators=["reinmax", GumbelST(0.5)], batch=10)
    record = json.loads(advice.to_json())
    first = record["rows"][0]
    assert first["rule"] == repr(advice.best.rule)
    assert first["interval"] == list(advice.best.interval)
    assert first["relative_squared_bias"] == advice.best.relative_squared_bias
    assert first["relative_error"] == advice.best.relative_error
    assert record["batch"] == 10
    head, *lines = advice.table().splitlines()
    assert head.split() == ["estimator", "bias^2/|g|^2", "95%", "cosine", "error/|g|^2", "us"]
    assert len(lines) == len(advice.rows)
    assert all(line.startswith(found.label) for line, found in zip(lines, advice.rows, strict=True))
    assert len({len(line) for line in (head, *lines)}) == 1


def test_printed_it_is_a_short_table():
    loss, eta = quadratic()
    advice = advise(loss, eta)
    head, *lines = str(advice).splitlines()
    assert head.split()[0] == "estimator"
    assert len(lines) < 15 < len(advice.rows)
    assert all(len(line) <= 105 for line in lines)  # seven digits of microseconds fit
    assert lines[0].startswith(repr(advice.best.rule))
    assert sum(line.startswith("zero gradient") for line in lines) == 1
    hidden = len(advice.rows) - 7  # six rules and the zero gradient
    assert lines[7] == f"3 outcomes, enumerated; {hidden} more rows in table()"
    assert " ".join(lines[8:]) == advice.verdict


def test_what_is_undefined_is_null():
    known = [ReinMax(), GumbelST()]
    for limit in (3, 0):
        advice = advise(lambda z: 0 * z.sum(-1), torch.zeros(3), estimators=known, limit=limit)
        assert math.isnan(advice.best.cosine)
        for row in json.loads(advice.to_json())["rows"]:
            assert row["cosine"] is row["relative_squared_bias"] is row["relative_error"] is None
            assert row["interval"] == [None, None]
        assert [row.rule for row in advice.rows] == [None, *known]
        assert "nan" in str(advice)


@pytest.fixture(scope="module")
def everything():
    return advise(*quadratic())


@pytest.mark.parametrize("slower", [1.0, 1e4])
def test_no_labels_of_the_picture_overlap(everything, slower):
    first, *others = everything.rows
    rows = [dataclasses.replace(first, seconds=slower * first.seconds), *others]
    assert len(check_legible(plot.draw(rows, None))) > 25


@pytest.mark.parametrize("microseconds", [10, 17, 20, 49, 600])
def test_what_a_backward_costs_can_be_read(everything, microseconds):
    rows = [dataclasses.replace(row, seconds=1e-6 * microseconds) for row in everything.rows]
    figure = plot.draw([row for row in rows if row.relative_squared_bias > 1], None)
    left, right = figure.axes
    check_legible(figure)
    shown = {label.get_position()[0] for label in right.get_xticklabels() if label.get_text()}
    assert shown
    low, high = right.get_xlim()
    assert low <= microseconds <= high
    top = max(max(line.get_ydata()) for line in left.lines)
    assert left.get_ylim()[1] > 1.3 * top


def test_each_rule_has_a_colour_of_its_own(everything):
    _, right = everything.plot().axes
    points = [line for line in right.lines if line.get_linestyle() == "None"]
    names = {row.name for row in everything.rows if row.rule is not None}
    assert len({line.get_color() for line in points}) == len(points) == len(names) > 10
    assert len(set(plot.colours(30))) == 30


def test_an_all_but_infinite_temperature_reads_limit():
    loss, eta = quadratic()
    advice = advise(loss, eta, estimators=["mve", "reinmax"])
    assert MVE(1e6) in [row.rule for row in advice.rows]
    left, _ = advice.plot().axes
    labels = [label.get_text() for label in left.get_xticklabels()]
    assert labels == ["0.25", "0.5", "1", "2", "4", "limit"]
    assert left.get_xlim()[1] < 20
    without = advise(loss, eta, estimators=["reinmax"]).plot().axes[0]
    assert "limit" not in [label.get_text() for label in without.get_xticklabels()]


def test_the_picture_shows_the_squared_bias(tmp_path):
    loss, eta = quadratic()
    advice = advise(loss, eta, estimators=["reinmax", GumbelST(0.5)])
    left, right = advice.plot(tmp_path / "advice.png").axes
    assert (tmp_path / "advice.png").read_bytes().startswith(b"\x89PNG")
    reinmax = next(line for line in left.lines if len(line.get_xdata()) == len(TEMPERATURES))
    rows = [row for row in advice.rows if row.name == "reinmax"]
    expected = {row.tau: max(row.relative_squared_bias, plot.FLOOR) for row in rows}
    assert expected[1.0] == plot.FLOOR  # unbiased for a quadratic
    assert dict(reinmax.get_xydata().tolist()) == pytest.approx(expected)
    level = [line for line in right.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in level] == [1.0]  # of a zero gradient
    assert len(right.lines) == 3


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    advice = advise(*quadratic(), estimators=[ReinMax()])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(st.StraightThroughError, match=r"pip install 'straightthrough\[studies\]'"):
        advice.plot()


def test_rules_that_differ_in_more_than_their_temperature_are_all_shown():
    loss, eta = quadratic()
    rules = [GappedST(1.0, 0.5), GappedST(1.0, 3.0), GappedST(2.0, 3.0), GappedST()]
    advice = advise(loss, eta, estimators=rules)
    names = {row.rule: row.name for row in advice.rows}
    expected = ["gapped(gap=0.5)", "gapped(gap=3.0)", "gapped(gap=3.0)", "gapped"]
    assert [names[rule] for rule in rules] == expected
    assert "GappedST(tau=1.0, gap=0.5)" in str(advice)
    assert "GappedST(tau=1.0, gap=1.0)" in str(advice)
    left, right = advice.plot().axes
    drawn = {y for line in left.lines for y in line.get_ydata()}
    biases = {row.rule: max(row.relative_squared_bias, plot.FLOOR) for row in advice.rows}
    assert {biases[rule] for rule in rules} <= drawn
    assert len([line for line in right.lines if line.get_linestyle() == "None"]) == 3


@dataclass(frozen=True)
class Own(CategoricalEstimator):
    """A rule whose temperature may be something else than a number."""

    tau: float | str | tuple[float, ...] = "mean"

    def gradient(self, logits, index, grad, noise):
        return StraightThrough(1.0).gradient(logits, index, grad, noise)


@pytest.mark.parametrize("tau", ["mean", (1.0, 2.0), None])
def test_a_field_tau_that_is_no_number_is_no_temperature(tau):
    advice = advise(*quadratic(), estimators=[Own(tau)])
    assert advice.best.tau is None
    assert json.loads(advice.to_json())["rows"][0]["tau"] is None
    assert advice.plot()
