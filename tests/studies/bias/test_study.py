"""Bias on random quadratics: the study against published numbers and sums written out here."""

import json
import math

import pytest
import torch

import straightthrough as st
from straightthrough.audit.compare.quadratic import quadratic
from straightthrough.cli import pages
from straightthrough.estimators import GumbelRao, GumbelST, ReinMax, StraightThrough
from straightthrough.report.page import Chart, unbroken
from straightthrough.studies.bias import study as bias
from straightthrough.studies.bias.page import tables
from straightthrough.studies.bias.study import PUBLISHED, RULES, Settings, naive_moments, run
from straightthrough.studies.record import to_json

pytestmark = pytest.mark.xdist_group("bias")  # one process has what its tests share


@pytest.fixture(scope="module")
def result():
    return run(Settings(sizes=[4, 3], seeds=[0, 7], draws=2000, repetitions=2))


def test_the_quadratic_is_drawn_as_published():
    torch.manual_seed(5)
    q = torch.randn(6, 6)
    a, b, eta = q.T @ q, torch.randn(6), torch.randn(6)
    loss, logits = quadratic(6, 5)
    z = torch.rand(3, 6, dtype=torch.float64)
    torch.testing.assert_close(logits, eta.double())
    expected = torch.stack([row @ a.double() @ row + b.double() @ row for row in z])
    torch.testing.assert_close(loss(z), expected)


def test_rules_without_noise_have_the_published_moments(result):
    ours = {p.rule: (p.bias_squared, p.variance) for p in result.points if p.published}
    assert set(ours) == {repr(rule) for rule in PUBLISHED}
    for rule, (bias_squared, variance) in PUBLISHED.items():
        if not rule.draws_noise:
            assert ours[repr(rule)][0] == pytest.approx(bias_squared, abs=6e-5)
            assert ours[repr(rule)][1] == pytest.approx(variance, rel=5e-4)


def test_every_size_and_seed_has_every_rule(result):
    assert [(row.size, row.seed, row.rule) for row in result.rows] == [
        (size, seed, repr(rule)) for size in (4, 3) for seed in (0, 7) for rule in RULES
    ]
    everything = {
        record.type
        for record in st.core.registry.RULES.values()
        if issubclass(record.type, st.estimators.CategoricalEstimator)
    }
    assert {type(rule) for rule in RULES} == everything - {st.estimators.MVEInteger}


def test_a_quadratic_has_its_own_moments_by_brute_force(result):
    loss, logits = quadratic(3, 7)
    p = logits.softmax(-1)
    z = torch.eye(3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(loss(z).sum(), z)
    x = logits.clone().requires_grad_()
    (exact,) = torch.autograd.grad(x.softmax(-1) @ loss(z).detach(), x)
    jacobian = torch.diag(p) - torch.outer(p, p)
    estimates = grad @ jacobian
    mean = p @ estimates
    scale = exact.norm() / mean.norm()
    row = next(r for r in result.rows if (r.size, r.seed, r.rule) == (3, 7, repr(RULES[0])))
    assert row.bias_squared == pytest.approx(float((scale * mean - exact).square().sum()))
    spread = (p[:, None] * (estimates - mean).square()).sum()
    assert row.variance == pytest.approx(float(scale.square() * spread))


def test_estimates_that_are_all_alike_have_the_moments_of_the_audit():
    loss, logits = quadratic(4, 0)
    outcomes = torch.eye(4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(loss(outcomes).sum(), outcomes)
    for rule in (StraightThrough(), ReinMax(1.5)):
        estimates = rule.vjp(logits.expand(4, 4), torch.arange(4), grad).expand(10, 4, 4)
        found = naive_moments(estimates, logits.softmax(-1), st.audit.exact_gradient(loss, logits))
        row = st.audit.compare(loss, logits, [rule], rescale=True).rows[0]
        assert found.tolist() == pytest.approx([row.bias_squared, row.variance])


def test_the_variance_of_the_procedure_is_that_of_squares_less_an_unbiased_square():
    torch.manual_seed(0)
    estimates, exact = torch.randn(7, 3, 3, dtype=torch.float64), torch.ones(3).double()
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    total = sum(p[i] * estimates[:, i].mean(0) for i in range(3))
    squares = sum(p[i] * estimates[:, i].square().mean(0) for i in range(3))
    noise = sum(p[i] ** 2 * estimates[:, i].var(0) / 7 for i in range(3))
    scale = exact.norm() / total.norm()
    bias_squared, variance = naive_moments(estimates, p, exact).tolist()
    assert bias_squared == pytest.approx(float((scale * total - exact).square().sum()))
    assert variance == pytest.approx(float(scale**2 * (squares - total.square() + noise).sum()))


def test_the_published_way_of_measuring_finds_what_was_published():
    """Where a rule draws, the published moments hold the noise of 1000 draws an outcome."""
    rule = GumbelST(tau=0.1)
    spread = bias._procedure(rule, 4, 0, 60)
    published = PUBLISHED[rule]
    assert spread.bias_squared[0] < published[0] < spread.bias_squared[2]
    assert spread.variance[0] < published[1] < spread.variance[2]
    assert bias._procedure(ReinMax(), 4, 0, 60) is None


def test_the_error_covers_what_another_rule_of_the_same_mean_finds():
    """GumbelRao has the bias of GumbelST, and less noise."""
    plain, its_error, variance = bias._moments(GumbelST(tau=0.1), 4, 0, 100_000)
    averaged, error, less = bias._moments(GumbelRao(tau=0.1, samples=20), 4, 0, 400_000)
    assert less < variance / 3
    assert abs(plain - averaged) < 4 * math.hypot(its_error, error)
    assert 0 < error < its_error < plain
    assert bias._moments(ReinMax(1.5), 4, 0, 100_000)[1] == 0


def test_a_rule_that_averages_gets_as_many_gumbels_and_fewer_estimates(monkeypatch):
    asked = []
    audit = st.audit.compare

    def compare(*arguments, samples, **others):
        asked.append(samples)
        return audit(*arguments, samples=samples, **others)

    monkeypatch.setattr(st.audit, "compare", compare)
    for rule in (GumbelST(), GumbelRao(samples=6), GumbelRao(samples=900)):
        bias._moments(rule, 3, 0, 9600)
    bias._moments(ReinMax(), 3, 0, 9600)
    assert asked == [9600, *[150] * 8, 1600, *[25] * 8, 10, *[2] * 8, 9600]


def test_seeds_fix_everything():
    settings = Settings(sizes=[3], seeds=[1], draws=100, repetitions=1)
    one, two = run(settings), run(settings)
    assert one.rows == two.rows
    assert one.points == two.points


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": [4, 1]}, r"sizes must be 2 to 4096 classes, got \[4, 1\]"),
        ({"sizes": []}, "sizes must be 2 to 4096 classes"),
        ({"sizes": [4, 4]}, r"sizes must be different, got \[4, 4\]"),
        ({"draws": 0}, "draws must be .*1.*, got 0"),
        ({"repetitions": 0}, "repetitions must be .*1.*, got 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_measured(settings, message):
    with pytest.raises(st.ArgumentError, match=message):
        run(Settings(**settings), lambda progress: pytest.fail("it measures"))


def test_an_interrupted_study_has_a_page_of_what_there_is():
    def notify(progress):
        if (progress.run, progress.done) == ("4 classes, seed 1", 3):
            raise KeyboardInterrupt

    partial = run(Settings(sizes=[4], draws=100, repetitions=1), notify)
    assert not partial.header.complete
    assert len(partial.rows) == len(RULES) + 3
    page = pages.render(to_json(partial))
    assert "Partial report" in page
    assert "0.2781 / 0.7724" in page


def test_a_squared_bias_has_the_digits_of_its_error(result):
    plain = to_json(result)
    known = next(point for point in plain["points"] if point["published"])
    for value, error, cell in (
        (0.018452, 0.00239, "0.0185 ± 0.0024"),
        (-0.00001, 0.03, "0.000 ± 0.030"),
        (123.4, 20.2, "123 ± 20"),
        (0.2781, 0.0, "0.2781"),
    ):
        known.update(bias_squared=value, error=error)
        assert tables(plain)[0].rows[0][2] == cell


def test_the_page_puts_published_moments_beside_ours(result):
    plain = to_json(result)
    squares, variances, four, three = tables(plain)
    assert squares.rows[0] == ["StraightThrough(tau=1.0)", "0.2781", "0.2781", "–", "–"]
    assert variances.rows[0] == ["StraightThrough(tau=1.0)", "0.7724", "0.7724", "–", "–"]
    spread = next(p.procedure for p in result.points if p.rule == "GumbelST(tau=0.1)")
    for table, published, quantiles in (
        (squares, "0.0347", spread.bias_squared),
        (variances, "65.6", spread.variance),
    ):
        gumbel = next(row for row in table.rows if row[0] == "GumbelST(tau=0.1)")
        low, middle, high = (f"{value:.3g}" for value in quantiles)
        assert gumbel[1:2] + gumbel[3:] == [published, middle, f"{low} to {high}"]
    assert four.rows[0][:2] == ["StraightThrough(tau=1.0)", "0.2781 / 0.7724"]
    assert three.columns == ("Bias² / variance, 3 classes", "Seed 0", "Seed 7")
    assert len(three.rows) == len(RULES)
    page = pages.render(plain)
    for table in (squares, variances, four, three):
        assert all(unbroken(cell) in page for row in table.rows for cell in row)


def test_the_curves_show_published_points_and_bands(result):
    plain = to_json(result)
    charts = [part for part in pages.layout(plain).parts if isinstance(part, Chart)]
    frontier, bias_curve, variance_curve = (chart.draw.args[0] for chart in charts)
    marks = [(line.x, line.y) for line in frontier if len(line.x) == 1]
    assert sorted(marks) == sorted(([v], [b]) for b, v in PUBLISHED.values())
    for curve, place in ((bias_curve, 0), (variance_curve, 1)):
        assert [line.band is None for line in curve] == [False, True, False, True]
        mark = curve[1]
        assert (mark.x, mark.y) == ([0.1], [PUBLISHED[GumbelST(tau=0.1)][place]])


def test_the_command_prints_tables_and_writes_a_page(cli, tmp_path):
    line = "study bias --sizes 3 --seeds 2,9 --draws 50 --repetitions 1 --json --output"
    code, out, _ = cli(line, tmp_path)
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "result.json").read_text())
    assert {(row["size"], row["seed"]) for row in json.loads(out)["rows"]} == {(3, 2), (3, 9)}
    assert "Their way, median" in (tmp_path / "report.html").read_text()
