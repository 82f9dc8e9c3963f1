"""Unbiased references and sampled audits, against enumeration and plain loops."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

import straightthrough as st
from gof import FAILURE_RATE, assert_law
from straightthrough.audit import compare, disarm, exact_gradient, reinforce
from straightthrough.audit.compare import groups, unbiased
from straightthrough.audit.compare.groups import GROUPS, draw_outcomes
from straightthrough.estimators import GumbelST, ReinMax, StraightThrough

FREEDOM = GROUPS - 1


def network(variables, classes, seed=0):
    torch.manual_seed(seed)
    first = torch.randn(variables * classes, 7, dtype=torch.float64)
    second = torch.randn(7, dtype=torch.float64)
    logits = torch.randn(variables, classes, dtype=torch.float64)
    return (lambda z: 3 + (z.flatten(1) @ first).tanh() @ second), logits


def of_binary(variables, seed=0):
    """A loss of 0/1 vectors, log-odds, and the gradient by a plain loop over outcomes."""
    loss, _ = network(variables, 1, seed)
    logits = 2 * torch.randn(variables, dtype=torch.float64)
    p, gradient = logits.sigmoid(), torch.zeros_like(logits)
    for outcome in itertools.product((0.0, 1.0), repeat=variables):
        b = torch.tensor(outcome, dtype=torch.float64)
        probability = torch.where(b == 1, p, 1 - p).prod()
        gradient += probability * loss(b[None])[0] * (b - p)
    return loss, logits, gradient


def assert_within(estimate, exact, errors=4):
    assert ((estimate.gradient - exact).abs() <= errors * estimate.standard_error).all()
    assert (estimate.standard_error > 0).all()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("variables", "classes"), [(1, 5), (2, 3), (3, 4), (5, 2)])
def test_reinforce_is_near_the_exact_gradient(variables, classes, seed):
    loss, logits = network(variables, classes)
    estimate = reinforce(loss, logits, samples=20_000, seed=seed)
    assert_within(estimate, exact_gradient(loss, logits))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("variables", [1, 2, 5])
def test_disarm_is_near_the_exact_gradient(variables, seed):
    loss, logits, exact = of_binary(variables)
    assert_within(disarm(loss, logits, samples=20_000, seed=seed), exact)


def test_reinforce_is_the_leave_one_out_formula():
    loss, logits = network(2, 3)
    size, p = 3, logits.softmax(-1)
    z = torch.cat([outcomes.one_hot for outcomes in draw_outcomes(logits, size * GROUPS, 7)])
    value, estimates = loss(z), []
    for group in range(GROUPS):
        members = range(group * size, (group + 1) * size)
        terms = [
            (value[k] - sum(value[j] for j in members if j != k) / (size - 1)) * (z[k] - p)
            for k in members
        ]
        estimates.append(sum(terms) / size)
    each = torch.stack(estimates)
    found = reinforce(loss, logits, samples=size * GROUPS, seed=7)
    torch.testing.assert_close(found.gradient, each.mean(0), rtol=1e-12, atol=1e-14)
    error = each.std(0) / GROUPS**0.5
    torch.testing.assert_close(found.standard_error, error, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("logits", [[0.3], [-1.2], [0.0], [0.4, -2.0], [-0.7, -0.1], [3.0, 1.0]])
def test_disarm_is_exact_when_the_uniforms_are_integrated_out(logits):
    logits = torch.tensor(logits, dtype=torch.float64)
    loss, _, _ = of_binary(len(logits))
    p = logits.sigmoid()
    # The estimate is constant between the places 0, p, 1 - p and 1 of each uniform.
    cells = [list(itertools.pairwise(sorted({0.0, float(q), 1 - float(q), 1.0}))) for q in p]
    total = torch.zeros_like(p)
    for cell in itertools.product(*cells):
        low, high = torch.tensor(cell, dtype=torch.float64).unbind(-1)
        estimate = unbiased.antithetic(loss, logits, ((low + high) / 2)[None])
        total += (high - low).prod() * estimate[0]
    expected = torch.zeros_like(p)
    for outcome in itertools.product((0.0, 1.0), repeat=len(p)):
        b = torch.tensor(outcome, dtype=torch.float64)
        expected += torch.where(b == 1, p, 1 - p).prod() * loss(b[None])[0] * (b - p)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [64, 4096])
def test_errors_are_calibrated(samples):
    """Normal groups give a t law; groups of few draws are not normal, but errors stay unbiased."""
    loss, logits = network(2, 3)
    binary, log_odds, gradient = of_binary(3)
    cases = [
        (exact_gradient(loss, logits), lambda seed: reinforce(loss, logits, **at(seed))),
        (gradient, lambda seed: disarm(binary, log_odds, **at(seed))),
    ]

    def at(seed):
        return {"samples": samples, "seed": seed}

    for exact, estimator in cases:
        estimates = [estimator(seed) for seed in range(400)]
        values = torch.stack([e.gradient for e in estimates])
        errors = torch.stack([e.standard_error for e in estimates])
        # The square of the error is unbiased for the variance: chi-square over repetitions.
        claimed = errors.square().mean(0)
        ratio = ((values - exact).square().sum(0) / claimed).flatten().numpy()
        low, high = stats.chi2.ppf([FAILURE_RATE / 2, 1 - FAILURE_RATE / 2], len(estimates))
        assert (ratio > low).all()
        assert (ratio < high).all()
        if samples > 1000:
            t = ((values - exact) / errors).flatten(1)
            for column in t.T:
                assert_law(column.numpy(), stats.t(FREEDOM).cdf)


pytestmark = pytest.mark.xdist_group("unbiased")  # one process has what its tests share
SEEDS = 200


@pytest.fixture(scope="module")
def sampled():
    """Sampled audits of a small problem under many seeds, and the enumerated one."""
    loss, logits = network(2, 3)
    rules = [StraightThrough(), ReinMax(1.5), GumbelST(0.7)]
    audits = {}
    for rescale in (False, True):
        exact = compare(loss, logits, rules, samples=100_000, rescale=rescale)
        many = [
            compare(loss, logits, rules, samples=2048, seed=s, rescale=rescale, limit=1)
            for s in range(SEEDS)
        ]
        audits[rescale] = exact, many
    return audits


@pytest.mark.parametrize("number", ["bias_squared", "variance", "cosine", "mse"])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("rule", [0, 1, 2])
def test_forced_sampling_agrees_with_enumeration(sampled, rescale, rule, number):
    exact, many = sampled[rescale]
    truth = getattr(exact.rows[rule], number)
    values = np.array([getattr(audit.rows[rule], number) for audit in many])
    errors = np.array([getattr(audit.rows[rule].standard_errors, number) for audit in many])
    # Four errors of a mean over repetitions, plus the sampling noise of the enumerated Gumbels.
    slack = 1e-3 * abs(truth) if rule == 2 else 0
    assert abs(values.mean() - truth) < 4 * values.std() / SEEDS**0.5 + slack
    assert abs(values[0] - truth) < 4 * errors[0]
    # The errors are those that the repetitions show, within a quarter.
    assert 0.8 < (errors**2).mean() ** 0.5 / values.std() < 1.25


def test_the_squared_bias_is_corrected_for_the_noise_of_both_means():
    """Where the bias is 0, uncorrected squares would average to the variances over `samples`."""
    torch.manual_seed(0)
    half = torch.randn(4, 4, dtype=torch.float64)
    logits = torch.randn(4, dtype=torch.float64)

    def quadratic(z):
        return (z @ half).square().sum(-1)

    rows = [
        compare(quadratic, logits, ["reinmax"], samples=512, seed=s, limit=1).rows[0]
        for s in range(300)
    ]
    values = np.array([row.bias_squared for row in rows])
    errors = np.array([row.standard_errors.bias_squared for row in rows])
    assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5
    assert rows[0].variance / 512 > 10 * values.std() / len(values) ** 0.5
    assert 1 < (errors**2).mean() ** 0.5 / values.std() < 1.6
    assert (values < 0).any()


def test_past_the_limit_outcomes_are_sampled_and_it_is_said(tmp_path):
    loss, logits = network(40, 3)
    audit = compare(loss, logits, ["reinmax", GumbelST(0.5)], samples=100)
    assert (audit.method, audit.outcomes, audit.samples) == ("sampled", 128, 100)
    assert all(math.isfinite(row.standard_errors.mse) for row in audit.rows)
    record = json.loads(audit.to_json())
    assert record["method"] == "sampled"
    row = record["rows"][0]
    assert row["standard_errors"]["variance"] == audit.rows[0].standard_errors.variance
    *lines, foot = audit.table().splitlines()
    assert foot == "128 outcomes, sampled; ± one standard error"
    assert all(line.count("±") == 4 for line in lines[1:])
    axes = audit.plot(tmp_path / "audit.png").axes[0]
    assert "sampled" in axes.get_title()
    across, up = (bars.get_segments()[0] for bars in axes.collections[:2])
    errors = audit.rows[0].standard_errors
    assert across[1] - across[0] == pytest.approx([2 * errors.bias_squared, 0])
    assert up[1] - up[0] == pytest.approx([0, 2 * errors.variance])


def test_enumeration_is_the_default_up_to_the_limit():
    loss, logits = network(2, 3)
    assert compare(loss, logits, ["reinmax"], limit=9).method == "enumerated"
    assert compare(loss, logits, ["reinmax"], limit=8).method == "sampled"


def test_chunks_do_not_show(monkeypatch):
    loss, logits = network(3, 2)
    binary, log_odds, _ = of_binary(3)

    def everything():
        row = compare(loss, logits, ["gumbel"], samples=256, limit=1).rows[0]
        estimates = [reinforce(loss, logits, samples=256), disarm(binary, log_odds, samples=256)]
        return [row.bias_squared, row.variance], estimates

    (whole, pair), (sizes, seen) = everything(), ([], loss)

    def loss(z):
        sizes.append(len(z))
        return seen(z)

    monkeypatch.setattr(groups, "CHUNK", 42)
    monkeypatch.setattr(unbiased, "CHUNK", 42)
    parts, others = everything()
    assert set(sizes) == {7, 256 % 7, 2}  # and two copies of an outcome, to compare with
    assert parts == pytest.approx(whole, rel=1e-10)
    for ours, theirs in zip(others, pair, strict=True):
        torch.testing.assert_close(ours.gradient, theirs.gradient, rtol=1e-10, atol=1e-13)


def test_the_seed_decides():
    loss, logits = network(2, 3)
    binary, log_odds, _ = of_binary(3)
    for estimator in (reinforce, disarm):
        arguments = (loss, logits) if estimator is reinforce else (binary, log_odds)
        one, again, other = (estimator(*arguments, samples=64, seed=s) for s in (1, 1, 2))
        assert torch.equal(one.gradient, again.gradient)
        assert not torch.equal(one.gradient, other.gradient)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_outcomes_and_estimates_have_the_logits_dtype(dtype):
    seen = set()

    def loss(z):
        seen.add(z.dtype)
        return z.flatten(1).sum(-1)

    for estimate in (
        reinforce(loss, torch.zeros(2, 3, dtype=dtype)),
        disarm(loss, torch.zeros(3, dtype=dtype)),
    ):
        assert estimate.gradient.dtype == estimate.standard_error.dtype == dtype
    assert seen == {dtype}


def test_a_large_constant_in_the_loss_changes_nothing():
    loss, logits = network(2, 3)
    near = reinforce(loss, logits, samples=64)
    far = reinforce(lambda z: loss(z) + 1e8, logits, samples=64)
    torch.testing.assert_close(near.gradient, far.gradient, rtol=0, atol=1e-7)
    torch.testing.assert_close(near.standard_error, far.standard_error, rtol=0, atol=1e-7)


def test_impossible_outcomes_are_never_drawn():
    logits = torch.tensor([[0.0, 1.0, -math.inf], [0.5, -math.inf, 0.0]])

    def loss(z):
        assert (z[:, 0, 2] == 0).all()
        assert (z[:, 1, 1] == 0).all()
        return z[:, 0, 0] * z[:, 1, 2] - z[:, 0, 1]

    estimate = reinforce(loss, logits)
    assert estimate.gradient[0, 2] == estimate.gradient[1, 1] == 0
    rows = compare(loss, logits, ["straight_through", "gumbel"], limit=1).rows
    assert all(math.isfinite(row.mse) for row in rows)
    certain = disarm(lambda b: b.sum(-1), torch.tensor([math.inf, -math.inf, 0.0]))
    assert certain.gradient.tolist() == [0, 0, 0.25]


def test_samples_are_rounded_up_to_whole_groups():
    def total(z):
        return z.flatten(1).sum(-1)

    assert [reinforce(total, torch.zeros(3), samples=n).samples for n in (1, 65)] == [64, 96]
    assert [disarm(total, torch.zeros(3), samples=n).samples for n in (1, 33)] == [32, 64]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: exact_gradient(torch.sum, torch.zeros(21, 2)),
            st.ArgumentError,
            r"st.audit.reinforce, or st.audit.disarm",
        ),
        (lambda: reinforce(torch.sum, torch.zeros(2), samples=0), st.ArgumentError, "samples must"),
        (lambda: disarm(torch.sum, torch.zeros(2), samples=True), st.ArgumentError, "samples must"),
        (lambda: reinforce(torch.sum, torch.zeros(2, 2, 2)), st.ShapeError, "one example"),
        (lambda: reinforce(torch.sum, torch.zeros(3)), st.ShapeError, "here N = 1024"),
        (lambda: disarm(torch.sum, torch.zeros(2, 2)), st.ShapeError, "flatten them"),
        (lambda: disarm(torch.sum, torch.zeros(2).long()), st.DtypeError, "logits must be"),
        (lambda: disarm(torch.sum, torch.full((2,), math.nan)), st.ArgumentError, "NaN"),
        (
            lambda: disarm(lambda b: 1 / b[:, 1], torch.tensor([9.0, -99.0])),
            st.ArgumentError,
            r"not finite at the outcome with classes \[[01], 0\]",
        ),
        (lambda: reinforce(torch.sum, torch.zeros(3), seed=0.5), st.ArgumentError, "seed must"),
    ],
)
def test_wrong_use_raises(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_noise_of_a_rule_is_taken_off_its_squared_bias():
    loss, logits = network(2, 3)

    def row(samples, seed):
        found = compare(loss, logits, [GumbelST(0.5)], samples=samples, seed=seed).rows[0]
        assert found.mse == pytest.approx(found.bias_squared + found.variance)
        return found

    # Two draws an outcome: half of the variance over noise would stay in the square.
    few = np.array([row(2, seed).bias_squared for seed in range(400)])
    long = row(50_000, 1000)
    error = few.std() / 20
    assert few.mean() == pytest.approx(long.bias_squared, abs=4 * error)


@pytest.mark.parametrize("rule", [0, 1])
def test_ratios_out_of_few_drawn_outcomes_have_no_bias(rule):
    """As they are, the cosine of 256 draws is off by 5 to 9 errors, and so is what it gives."""
    torch.manual_seed(0)
    half, logits = torch.randn(6, 6, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    rules = ["reinmax", "straight_through"]

    def loss(z):
        flat = z.flatten(1)
        return (flat @ half).tanh().sum(-1) + (flat @ half * flat).sum(-1)

    def row(**arguments):
        return compare(loss, logits, rules, rescale=True, **arguments).rows[rule]

    truth = row()
    many = [row(samples=256, seed=seed, limit=1) for seed in range(200)]
    for number in ("cosine", "bias_squared"):
        values = np.array([getattr(found, number) for found in many])
        error = values.std() / len(many) ** 0.5
        assert abs(values.mean() - getattr(truth, number)) < 4 * error
