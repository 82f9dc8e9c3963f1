"""Advice: who wins where mathematics says so, intervals that hold, time that is kept."""

import json
import math
import sys
from dataclasses import dataclass

import pytest
import torch
from scipy import stats

import straightthrough as st
from straightthrough.audit import Advice, Candidate, advise, compare
from straightthrough.audit.advise.runner import TEMPERATURES, student
from straightthrough.core.registry import RULES
from straightthrough.estimators import CategoricalEstimator, GumbelST, ReinMax, StraightThrough


def quadratic(size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, b, eta = (torch.randn(*s, generator=generator) for s in ((size, size), (size,), (size,)))
    return (lambda z: ((z @ (q.T @ q)) * z).sum(-1) + z @ b), eta


def network(variables, classes, seed=0):
    torch.manual_seed(seed)
    first = torch.randn(variables * classes, 7, dtype=torch.float64)
    second = torch.randn(7, dtype=torch.float64)
    logits = torch.randn(variables, classes, dtype=torch.float64)
    return (lambda z: (z.flatten(1) @ first).tanh() @ second), logits


def test_the_unbiased_rule_wins_at_a_large_batch_and_the_quiet_one_at_a_small():
    # ReinMax at 1 is unbiased for quadratics, with the variance 13.79 of the published row.
    loss, eta = quadratic()
    known = ["straight_through", "gumbel", "reinmax"]
    large = advise(loss, eta, estimators=known, batch=10_000, budget=1.0)
    assert large.best.rule == ReinMax(1.0)
    assert large.best.mse == pytest.approx(13.79 / 10_000, rel=1e-3)
    assert large.best.interval == (large.best.mse, large.best.mse)
    small = advise(loss, eta, estimators=known, batch=1, budget=1.0, rescale=True)
    assert small.best.variance < 1 < large.best.variance
    # The least error of all has ReinMax at a quarter, whose mean points away from the gradient.
    least = min(small.rows, key=lambda row: row.mse)
    assert least.mse < small.best.mse
    assert least.cosine < 0 < small.best.cosine
    assert least in small.rows[-3:]


def test_rows_without_noise_are_those_of_compare():
    loss, logits = network(2, 3)
    rules = [StraightThrough(1.3), ReinMax(), ReinMax(1.5)]
    advice = advise(loss, logits, estimators=rules, batch=7)
    rows = {row.rule: row for row in advice.rows}
    for rule, row in zip(rules, compare(loss, logits, rules).rows, strict=True):
        found = rows[rule]
        assert (found.bias_squared, found.variance, found.cosine) == pytest.approx(
            (row.bias_squared, row.variance, row.cosine), rel=1e-12
        )
        assert found.mse == pytest.approx(row.bias_squared + row.variance / 7, rel=1e-12)
        assert found.interval == (found.mse, found.mse)
        assert found.seconds > 0
    assert [row.mse for row in advice.rows] == sorted(row.mse for row in advice.rows)
    assert advice.ties == ()
    assert (advice.outcomes, advice.method, advice.batch) == (9, "enumerated", 7)


@pytest.mark.parametrize("limit", [2**20, 0])
def test_intervals_cover_what_a_long_run_says(limit):
    loss, logits = network(2, 3)
    rules = [GumbelST(0.5), GumbelST(1.0), ReinMax(2.0)]
    long = compare(loss, logits, rules, samples=20_000).rows
    errors = [row.bias_squared + row.variance / 5 for row in long]
    truth = dict(zip(rules, errors, strict=True))
    covered = total = 0
    for seed in range(100):
        advice = advise(
            loss, logits, estimators=rules, batch=5, budget=0.02, seed=seed, limit=limit
        )
        noisy = [row for row in advice.rows if limit == 0 or row.rule.draws_noise]
        total += len(noisy)
        covered += sum(row.interval[0] < truth[row.rule] < row.interval[1] for row in noisy)
        assert all(row.interval[0] < row.mse < row.interval[1] for row in noisy)
    # Fewer hits than this have a probability of 1e-4 at 90%, a little below the nominal 95%.
    assert covered >= stats.binom.ppf(1e-4, total, 0.9)
    assert covered < total  # an interval that is always right is too wide


def test_the_budget_is_kept(clock):
    @dataclass(frozen=True)
    class Timed(GumbelST):
        def gradient(self, logits, index, grad, seed):
            clock[0] += 1e-3
            return super().gradient(logits, index, grad, seed)

    loss, logits = network(3, 4)
    rules = [Timed(tau) for tau in (0.9999, 1.0, 1.0001)]  # hard to tell apart
    for budget in (0.2, 0.8):
        started = clock[0]
        advice = advise(loss, logits, estimators=rules, budget=budget)
        spent = clock[0] - started
        assert 0.5 * budget < spent < 1.5 * budget
        assert advice.seconds == spent
        assert advice.budget == budget


def test_a_rule_too_dear_for_the_budget_is_named(clock):
    @dataclass(frozen=True)
    class Slow(GumbelST):
        def gradient(self, logits, index, grad, seed):
            clock[0] += 0.02 * len(logits) / 256
            return super().gradient(logits, index, grad, seed)

    loss, logits = network(4, 4)
    advice = advise(loss, logits, estimators=[Slow(), ReinMax()], budget=0.05)
    assert [row.rule for row in advice.rows] == [ReinMax()]
    ((name, reason),) = advice.skipped
    assert name == repr(Slow())
    assert reason.startswith("is too dear for the budget: its audits take about ")
    alone = advise(loss, logits, estimators=[Slow()], budget=0.05)
    assert [row.rule for row in alone.rows] == [Slow()]


def test_time_goes_to_the_contenders(clock):
    loss, logits = network(2, 3)
    audits = {}

    def counted(name, rule):
        @dataclass(frozen=True)
        class Counted(type(rule)):
            def gradient(self, logits, index, grad, noise):
                clock[0] += 1e-3
                if logits.ndim == 4:
                    audits[name] = audits.get(name, 0) + logits.shape[0] * logits.shape[1]
                return super().gradient(logits, index, grad, noise)

        return Counted(rule.tau)

    taus = {"a": 0.7, "b": 0.7001, "c": 0.1}
    rules = [counted(name, GumbelST(tau)) for name, tau in taus.items()]
    advise(loss, logits, estimators=rules, budget=0.6)
    assert audits["c"] < 0.5 * audits["a"]
    assert audits["a"] == audits["b"]


def test_all_registered_estimators_run_at_several_temperatures():
    loss, eta = quadratic(3)
    advice = advise(loss, eta, budget=1.0)
    tried = {(row.name, row.tau) for row in advice.rows}
    skipped = " ".join(name for name, _ in advice.skipped)
    for name, record in RULES.items():
        if issubclass(record.type, CategoricalEstimator):
            assert any(name == other for other, _ in tried) or record.type.__name__ in skipped
    assert {("reinmax", tau) for tau in TEMPERATURES} <= tried
    named = advise(loss, eta, estimators=["reinmax", GumbelST(0.3)], budget=0.1)
    assert {row.name for row in named.rows} == {"reinmax", "gumbel"}
    assert [row.tau for row in named.rows if row.name == "gumbel"] == [0.3]
    assert len(named.rows) == len(TEMPERATURES) + 1


@dataclass(frozen=True)
class Broken(CategoricalEstimator):
    fails: bool

    def gradient(self, logits, index, grad, seed):
        if self.fails:
            raise RuntimeError("no such case")
        return grad / 0


def test_rules_that_fail_are_named_and_left_out():
    loss, eta = quadratic(3)
    rules = [Broken(True), ReinMax(), Broken(False)]
    advice = advise(loss, eta, estimators=rules)
    assert [row.rule for row in advice.rows] == [ReinMax()]
    assert advice.skipped == (
        ("Broken(fails=True)", "raises RuntimeError: no such case"),
        ("Broken(fails=False)", "has a gradient that is not finite"),
    )
    for broken in rules[::2]:
        with pytest.raises(st.ArgumentError, match=r"no estimator could be tried: Broken\(fails="):
            advise(loss, eta, estimators=[broken])


def test_each_audit_has_noise_of_its_own():
    seen = []

    @dataclass(frozen=True)
    class Recorder(GumbelST):
        def gradient(self, logits, index, grad, noise):
            if logits.ndim == 4:
                seen.append((int(noise.seed), noise.offset))
            return super().gradient(logits, index, grad, noise)

    loss, logits = network(2, 3)
    advise(loss, logits, estimators=[Recorder()], budget=0.05, seed=7)
    assert len({value for value, _ in seen}) >= 5
    assert len(set(seen)) == len(seen)
    assert seen[0][0] == 7


def row(rule, mse, interval, cosine=0.9):
    return Candidate("name", rule, rule.tau, mse, 0.0, mse, cosine, 1e-5, interval)


def test_ties_are_those_whose_intervals_reach_down_to_the_best():
    best = row(ReinMax(), 2.0, (1.0, 3.0))
    tie = row(ReinMax(2.0), 4.0, (2.9, 5.1))
    worse = row(ReinMax(3.0), 4.0, (3.1, 4.9))
    away = row(ReinMax(4.0), 1.5, (1.0, 2.0), cosine=-0.1)
    rows = (best, tie, worse, away)
    advice = Advice(rows, (), 8, 1.0, 0, False, 9, "enumerated", 1.0)
    assert advice.best is best
    assert advice.ties == (tie,)
    assert advice.verdict == (
        "ReinMax(tau=1.0): mean squared error 2 [1, 3] of the gradient averaged over 8, "
        "10 us a backward. Not told apart from it: ReinMax(tau=2.0)."
    )
    sure = Advice((row(ReinMax(), 2.0, (2.0, 2.0)),), (), 8, 1.0, 0, False, 9, "enumerated", 1.0)
    assert sure.verdict.endswith(
        "error 2 (exact) of the gradient averaged over 8, 10 us a backward."
    )
    many = Advice((best, *[tie] * 5), (), 8, 1.0, 0, False, 9, "enumerated", 1.0)
    assert many.verdict.endswith("ReinMax(tau=2.0) and 2 more.")


def test_a_rule_that_points_away_drops_out_whatever_its_error():
    loss, eta = quadratic()
    told = []
    rules = [ReinMax(0.25), GumbelST(4.0), GumbelST(4.0001)]
    advice = advise(loss, eta, estimators=rules, budget=0.2, rescale=True, notify=told.append)
    assert told[-1].text == "2 of 3 contend"
    assert advice.rows[-1].rule == ReinMax(0.25)
    assert advice.rows[-1].mse < advice.best.mse


def test_progress_is_told():
    loss, eta = quadratic(3)
    told = []
    advise(loss, eta, estimators=["gumbel"], budget=1.0, notify=told.append)
    assert told[0].text == f"pricing {len(TEMPERATURES)} candidates"
    assert told[1].text == f"{len(TEMPERATURES)} of {len(TEMPERATURES)} contend"
    assert told[-1].done == 1
    assert all(0 <= progress.done <= progress.total == 1 for progress in told)


def test_table_json_and_picture_say_the_same(tmp_path):
    loss, eta = quadratic(3)
    advice = advise(loss, eta, estimators=["reinmax", GumbelST(0.5)], batch=10, budget=0.1)
    record = json.loads(advice.to_json())
    assert record["rows"][0]["rule"] == repr(advice.best.rule)
    assert record["rows"][0]["interval"] == list(advice.best.interval)
    assert record["batch"] == 10
    head, *lines = advice.table().splitlines()
    assert head.split() == ["estimator", "bias^2", "variance", "cosine", "mse", "95%", "us"]
    assert [line.split()[0] for line in lines] == [repr(row.rule) for row in advice.rows]
    assert len({len(line) for line in (head, *lines)}) == 1
    figure = advice.plot(tmp_path / "advice.png")
    assert (tmp_path / "advice.png").read_bytes().startswith(b"\x89PNG")
    left, right = figure.axes
    reinmax = next(line for line in left.lines if len(line.get_xdata()) == len(TEMPERATURES))
    expected = {row.tau: row.mse for row in advice.rows if row.name == "reinmax"}
    drawn = dict(reinmax.get_xydata().tolist())
    assert drawn == pytest.approx({tau: mse for tau, mse in expected.items() if mse > 0})
    assert len(right.lines) == 2


def test_an_undefined_cosine_is_null():
    advice = advise(lambda z: z.sum(-1), torch.zeros(3), estimators=[ReinMax()])
    assert math.isnan(advice.best.cosine)
    assert json.loads(advice.to_json())["rows"][0]["cosine"] is None


def test_students_t():
    for freedom in (3, 4, 7, 15, 100):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    advice = advise(*quadratic(3), estimators=[ReinMax()])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(st.StraightThroughError, match=r"pip install 'straightthrough\[studies\]'"):
        advice.plot()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be above 0"),
        ({"batch": 0}, "batch must be an int of at least 1, got 0"),
        ({"estimators": "reinmax"}, "list of rules"),
        ({"estimators": []}, "list of rules"),
        ({"estimators": ["reimax"]}, "did you mean 'reinmax'"),
    ],
)
def test_wrong_use_raises(options, message):
    with pytest.raises(st.ArgumentError, match=message):
        advise(*quadratic(3), **options)


def test_errors_of_the_loss_are_not_the_candidates():
    with pytest.raises(st.ShapeError, match="loss must map"):
        advise(lambda z: z, torch.zeros(3))
    with pytest.raises(ZeroDivisionError):
        advise(lambda z: 1 / 0, torch.zeros(3))
