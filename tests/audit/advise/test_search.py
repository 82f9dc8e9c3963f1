"""Advice: who wins where mathematics says so, intervals that hold, time that is kept."""

import json
from dataclasses import dataclass

import pytest
import torch
from scipy import stats

import straightthrough as st
from straightthrough.audit import advise, compare, exact_gradient
from straightthrough.audit.advise.race import AUDITS
from straightthrough.audit.advise.runner import TEMPERATURES, student
from straightthrough.core.registry import RULES
from straightthrough.estimators import (
    CategoricalEstimator,
    GumbelRao,
    GumbelST,
    ReinMax,
    ReinMaxCV,
    StraightThrough,
)


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


def tried(advice):
    return [row.rule for row in advice.rows if row.rule is not None]


def test_the_unbiased_rule_wins_on_a_quadratic_at_any_batch():
    # ReinMax at 1 is unbiased for quadratics, with the variance 13.79 of the published row. At a
    # batch of one a zero gradient has a smaller error than that, and so have many that are biased.
    loss, eta = quadratic()
    known = ["straight_through", "gumbel", "reinmax"]
    for batch in (1, 10_000):
        advice = advise(loss, eta, estimators=known, batch=batch)
        assert advice.best.rule == ReinMax(1.0)
        assert advice.best.mse == pytest.approx(13.79 / batch, rel=1e-3)
        assert advice.best.interval == (advice.best.relative_squared_bias,) * 2
        zero = next(row for row in advice.rows if row.rule is None)
        assert (zero.mse < advice.best.mse) == (batch == 1)
        away = advice.rows[advice.rows.index(zero) + 1 :]
        assert ReinMax(0.25) in [row.rule for row in away]
        assert not any(row.cosine > 0 for row in away)


def test_shrinking_is_no_merit():
    """A rule and a tenth of it point the same way; without rescaling the tenth has less error."""

    @dataclass(frozen=True)
    class Tenth(ReinMax):
        def gradient(self, logits, index, grad, noise):
            return super().gradient(logits, index, grad, noise) / 10

    loss, eta = quadratic()
    whole, tenth, zero = advise(loss, eta, estimators=[ReinMax(), Tenth()]).rows
    assert (whole.rule, tenth.rule, zero.rule) == (ReinMax(), Tenth(), None)
    assert tenth.relative_squared_bias == pytest.approx(whole.relative_squared_bias, abs=1e-9)
    assert tenth.relative_error == pytest.approx(whole.relative_error, rel=1e-6)
    plain = advise(loss, eta, estimators=[Tenth(), ReinMax()], rescale=False)
    assert plain.best.rule == ReinMax()
    assert plain.rows[1].relative_squared_bias == pytest.approx(0.81, rel=1e-3)
    assert plain.rows[1].mse < plain.best.mse


def test_a_zero_gradient_is_a_row():
    loss, eta = quadratic()
    zero = next(row for row in advise(loss, eta, estimators=["reinmax"]).rows if row.rule is None)
    squared = float(exact_gradient(loss, eta).square().sum())
    assert (zero.label, zero.tau, zero.variance) == ("zero gradient", None, 0.0)
    assert zero.bias_squared == zero.mse == pytest.approx(squared, rel=1e-5)
    assert zero.relative_squared_bias == zero.relative_error == 1.0


def test_rows_without_noise_are_those_of_compare():
    loss, logits = network(2, 3)
    rules = [StraightThrough(1.3), ReinMax(), ReinMax(1.5)]
    advice = advise(loss, logits, estimators=rules, batch=7)
    rows = {row.rule: row for row in advice.rows}
    audit = compare(loss, logits, rules, rescale=True)
    for rule, row in zip(rules, audit.rows, strict=True):
        found = rows[rule]
        assert (found.bias_squared, found.variance, found.cosine) == pytest.approx(
            (row.bias_squared, row.variance, row.cosine), rel=1e-12
        )
        assert found.mse == pytest.approx(row.bias_squared + row.variance / 7, rel=1e-12)
        assert found.relative_squared_bias == pytest.approx(row.relative_squared_bias, rel=1e-12)
        assert found.interval == (found.relative_squared_bias,) * 2
        assert found.seconds > 0
    least = min(audit.rows, key=lambda row: row.relative_squared_bias)
    assert repr(advice.best.rule) == least.name
    assert (advice.outcomes, advice.method, advice.batch) == (9, "enumerated", 7)


@pytest.mark.parametrize(("limit", "seeds"), [(2**20, 100), (0, 40)])
def test_intervals_cover_what_a_long_run_says(limit, seeds):
    loss, logits = network(2, 3)
    rules = [GumbelST(0.5), GumbelST(1.0), ReinMax(2.0)]
    long = compare(loss, logits, rules, samples=20_000).rows
    truth = {rule: row.relative_squared_bias for rule, row in zip(rules, long, strict=True)}
    covered = total = 0
    for seed in range(seeds):
        options = {"budget": 0.02, "seed": seed, "limit": limit, "rescale": False}
        advice = advise(loss, logits, estimators=rules, **options)
        noisy = [row for row in advice.rows if row.rule and (limit == 0 or row.rule.draws_noise)]
        total += len(noisy)
        covered += sum(row.interval[0] < truth[row.rule] < row.interval[1] for row in noisy)
        assert all(row.interval[0] < row.relative_squared_bias < row.interval[1] for row in noisy)
    # Fewer hits than this have a probability of 1e-4 at 90%, a little below the nominal 95%.
    assert covered >= stats.binom.ppf(1e-4, total, 0.9)
    assert covered < total  # an interval that is always right is too wide


def test_a_squared_bias_below_zero_is_no_less_than_one_of_zero():
    """Draws that by chance agree told of the noisier rule that it has less bias than none."""
    torch.manual_seed(0)
    weight, logits = torch.randn(3, 4, 3, 4), torch.randn(3, 4)
    noisy = ReinMaxCV(0.25)  # which has the mean of the other, unbiased for a quadratic

    def loss(z):
        return torch.einsum("nlc,lcmd,nmd->n", z, weight, z)

    advice = advise(loss, logits, estimators=[noisy, ReinMax()])
    assert tried(advice) == [ReinMax(), noisy]
    assert all(row.interval[1] >= 0 for row in advice.rows)


def test_few_draws_and_much_noise_leave_a_scaled_mean_its_bias():
    """A mean of few draws is too long, and a scale out of it alone would make all bias small."""
    weight, logits = torch.randn(2, 3, 3, dtype=torch.float64)
    rules = [GumbelST(0.2), GumbelST(0.7), GumbelRao(0.5, samples=3)]

    def loss(z):
        return ((z * weight).sum((-1, -2)) - 0.45) ** 4

    long = compare(loss, 2 * logits, rules, samples=20_000, rescale=True).rows
    covered = dict.fromkeys(rules, 0)
    for seed in range(40):
        for row in advise(loss, 2 * logits, estimators=rules, seed=seed).rows:
            if row.rule is not None:
                truth = long[rules.index(row.rule)].relative_squared_bias
                covered[row.rule] += row.interval[0] < truth < row.interval[1]
                assert row.relative_squared_bias == pytest.approx(2 * (1 - row.cosine), abs=1e-9)
    # So many hits have a probability of 1 - 1e-4 at 80%: that few draws are not normal costs some.
    assert min(covered.values()) >= stats.binom.ppf(1e-4, 40, 0.8), covered


def test_the_budget_is_kept(clock):
    @dataclass(frozen=True)
    class Timed(GumbelST):
        def gradient(self, logits, index, grad, seed):
            clock[0] += 1e-3
            return super().gradient(logits, index, grad, seed)

    loss, logits = network(3, 4)
    rules = [Timed(tau) for tau in (0.9999, 1.0, 1.0001)]  # hard to tell apart
    widths = []
    for budget in (0.2, 2.0):
        started = clock[0]
        advice = advise(loss, logits, estimators=rules, budget=budget, limit=0)
        spent = clock[0] - started
        assert spent < 1.2 * budget
        assert advice.seconds == spent
        assert advice.budget == budget
        low, high = advice.best.interval
        widths.append(high - low)
    assert widths[1] < 0.7 * widths[0]  # what a larger one is for


def test_a_rule_too_dear_for_the_budget_is_named(clock):
    @dataclass(frozen=True)
    class Slow(GumbelST):
        def gradient(self, logits, index, grad, seed):
            clock[0] += 0.02 * len(logits) / 256
            return super().gradient(logits, index, grad, seed)

    loss, logits = network(4, 4)
    advice = advise(loss, logits, estimators=[Slow(), ReinMax()], budget=0.02, limit=0)
    assert tried(advice) == [ReinMax()]
    ((name, reason),) = advice.skipped
    assert name == repr(Slow())
    assert reason.startswith("is too dear for the budget: its audits take about ")
    alone = advise(loss, logits, estimators=[Slow()], budget=0.02, limit=0)
    assert tried(alone) == [Slow()]
    small = advise(loss, logits, estimators=[Slow(), ReinMax()], budget=0.02)
    assert {*tried(small)} == {Slow(), ReinMax()}


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

    taus = {"a": 0.1, "b": 0.1001, "c": 4.0}
    rules = [counted(name, GumbelST(tau)) for name, tau in taus.items()]
    advise(loss, logits, estimators=rules, budget=0.6)
    assert audits["c"] < 0.6 * audits["a"]
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
    assert {row.name for row in named.rows} == {"reinmax", "gumbel", "zero gradient"}
    assert [row.tau for row in named.rows if row.name == "gumbel"] == [0.3]
    assert len(named.rows) == len(TEMPERATURES) + 2


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
    assert tried(advice) == [ReinMax()]
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


@pytest.mark.parametrize("seed", [-(2**63), 2**63 - 1])
def test_the_first_seed_and_the_last_are_seeds_too(seed):
    advice = advise(*quadratic(), estimators=[GumbelST()], seed=seed)
    assert advice.best.interval[0] < advice.best.relative_squared_bias < advice.best.interval[1]
    assert json.loads(advice.to_json())["seed"] == seed


def test_a_seed_that_is_a_tensor_is_its_number():
    seed = torch.tensor(7)
    advice = advise(*quadratic(), estimators=[GumbelST()], seed=seed)
    assert json.loads(advice.to_json())["seed"] == 7
    assert json.loads(compare(*quadratic(), ["gumbel"], seed=seed).to_json())["seed"] == 7


def test_a_rule_that_points_away_drops_out_whatever_its_error():
    loss, eta = quadratic()
    told = []
    rules = [ReinMax(0.25), GumbelST(4.0), GumbelST(4.0001)]
    advice = advise(loss, eta, estimators=rules, notify=told.append)
    assert told[-1].text == "2 of 3 contend"
    assert [row.rule for row in advice.rows[-2:]] == [None, ReinMax(0.25)]
    assert advice.rows[-1].mse < advice.best.mse


def test_progress_is_told():
    loss, eta = quadratic(3)
    told = []
    advise(loss, eta, estimators=["gumbel"], notify=told.append)
    assert told[0].text == f"looking at {len(TEMPERATURES)} candidates"
    assert told[1].text == f"{len(TEMPERATURES)} of {len(TEMPERATURES)} contend"
    assert told[-1].done == told[-1].total == AUDITS
    done = [progress.done for progress in told]
    assert done == sorted(done)


def test_students_t():
    for freedom in (3, 4, 7, 15, 100):
        assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.01)


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
