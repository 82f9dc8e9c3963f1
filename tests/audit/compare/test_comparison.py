"""The audit against brute force, autograd, published numbers and direct simulation."""

from __future__ import annotations

import itertools
import json
import math
import sys

import pytest
import torch
import torch.nn.functional as F

import straightthrough as st
from pictures import check_legible
from straightthrough.audit import compare, exact_gradient
from straightthrough.audit.compare import exact, tally
from straightthrough.estimators import GumbelRao, GumbelST, ReinMax, StraightThrough


def quadratic(size, seed):
    """The loss and the logits of the published comparison."""
    torch.manual_seed(seed)
    q = torch.randn(size, size)
    a, b, eta = q.T @ q, torch.randn(size), torch.randn(size)
    return (lambda z: ((z @ a) * z).sum(-1) + z @ b), eta


def network(variables, classes, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    first = torch.randn(variables * classes, 7, dtype=dtype)
    second = torch.randn(7, dtype=dtype)
    logits = torch.randn(variables, classes, dtype=dtype)
    return (lambda z: (z.flatten(1) @ first).tanh() @ second), logits


def expectation(loss, logits):
    """E[loss] by a plain loop over outcomes, differentiable in the logits."""
    p, (variables, classes) = logits.softmax(-1), logits.shape
    total = 0.0
    for outcome in itertools.product(range(classes), repeat=variables):
        z = F.one_hot(torch.tensor(outcome), classes).to(logits.dtype)[None]
        total = total + p[range(variables), outcome].prod() * loss(z)[0]
    return total


@pytest.mark.parametrize(("variables", "classes"), [(1, 5), (2, 3), (3, 4), (5, 2), (3, 1)])
def test_exact_gradient_is_autograd_through_the_expectation(variables, classes):
    loss, logits = network(variables, classes)
    x = logits.clone().requires_grad_()
    expectation(loss, x).backward()
    torch.testing.assert_close(exact_gradient(loss, logits), x.grad, rtol=1e-12, atol=1e-13)


def test_exact_gradient_is_the_finite_difference():
    loss, logits = network(3, 4)
    gradient, h = exact_gradient(loss, logits), 1e-5
    for place in itertools.product(range(3), range(4)):
        up, down = logits.clone(), logits.clone()
        up[place] += h
        down[place] -= h
        difference = (expectation(loss, up) - expectation(loss, down)) / (2 * h)
        assert gradient[place].item() == pytest.approx(difference.item(), abs=1e-9)


def test_chunks_do_not_show(monkeypatch):
    loss, logits = network(4, 3)
    rules = ["straight_through", "reinmax"]
    whole = exact_gradient(loss, logits), compare(loss, logits, rules)
    sizes = []

    def counted(z):
        sizes.append(len(z))
        return loss(z)

    monkeypatch.setattr(exact, "CHUNK", 120)  # ten outcomes of 4 x 3
    parts = exact_gradient(counted, logits), compare(loss, logits, rules)
    assert max(sizes) == 10
    assert sum(sizes) == 3**4 + 2  # of which two are the last of the first chunk again
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(parts[1].rows, whole[1].rows, strict=True):
        assert ours.bias_squared == pytest.approx(theirs.bias_squared, rel=1e-10)
        assert ours.variance == pytest.approx(theirs.variance, rel=1e-10)


def test_one_variable_may_leave_out_its_dimension():
    loss, eta = quadratic(4, 0)
    seen = []

    def of_rows(z):
        seen.append(z.shape)
        return loss(z)

    flat = exact_gradient(of_rows, eta)
    assert seen == [(4, 4), (2, 4)]  # all, and the last one by itself
    row = exact_gradient(lambda z: loss(z[:, 0]), eta[None])
    assert torch.equal(flat, row[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_hots_and_result_have_the_logits_dtype(dtype):
    loss, logits = network(2, 3, dtype)
    seen = set()

    def watched(z):
        seen.add(z.dtype)
        return loss(z)

    assert exact_gradient(watched, logits).dtype == dtype
    assert seen == {dtype}


def test_a_loss_without_derivative_has_an_exact_gradient():
    cost = torch.tensor([1, 2, 4])
    gradient = exact_gradient(lambda z: cost[z.argmax(-1)], torch.zeros(3, dtype=torch.float64))
    expected = (cost - cost.sum() / 3) / 3  # p (cost - <p, cost>)
    torch.testing.assert_close(gradient, expected.double(), check_dtype=False)


def test_impossible_outcomes_are_never_evaluated():
    logits = torch.tensor([[0.0, 1.0, -math.inf], [0.5, -math.inf, 0.0]])

    def loss(z):
        assert (z[:, 0, 2] == 0).all()
        assert (z[:, 1, 1] == 0).all()
        return z[:, 0, 0] * z[:, 1, 2] - z[:, 0, 1]

    gradient = exact_gradient(loss, logits)
    expected = exact_gradient(
        lambda z: z[:, 0, 0] * z[:, 1, 1] - z[:, 0, 1], torch.tensor([[0.0, 1.0], [0.5, 0.0]])
    )
    torch.testing.assert_close(gradient[0, :2], expected[0])
    torch.testing.assert_close(gradient[1, [0, 2]], expected[1])
    assert gradient[0, 2] == gradient[1, 1] == 0
    rows = compare(loss, logits, ["straight_through", "reinmax", "gumbel"], samples=8).rows
    assert all(math.isfinite(row.mse) for row in rows)


def test_published_bias_and_variance():
    loss, eta = quadratic(4, 0)
    rules = [StraightThrough(), ReinMax(), ReinMax(1.5)]
    rows = compare(loss, eta, rules, rescale=True).rows
    assert [f"{row.bias_squared:.4f}" for row in rows] == ["0.2781", "0.0000", "0.0474"]
    assert [f"{row.variance:.4g}" for row in rows] == ["0.7724", "13.79", "2.886"]
    assert rows[1].bias_squared < 1e-12


def test_published_bias_and_variance_of_gumbel_rao():
    """.0176 and 10.87, themselves estimates from samples, at a temperature of about .1."""
    loss, eta = quadratic(4, 0)
    row = compare(loss, eta, [GumbelRao(0.1, samples=100)], samples=2048, rescale=True).rows[0]
    assert row.bias_squared == pytest.approx(0.0176, abs=0.006)
    assert row.variance == pytest.approx(10.87, rel=0.02)


def by_hand(loss, logits, rule):
    """Mean and second moment of a rule without noise, by a plain loop."""
    logits = logits.double()
    (variables, classes), p = logits.shape, logits.softmax(-1)
    mean, second = torch.zeros_like(logits), 0.0
    for outcome in itertools.product(range(classes), repeat=variables):
        index = torch.tensor(outcome)
        z = F.one_hot(index, classes).double().requires_grad_()
        (grad,) = torch.autograd.grad(loss(z[None])[0], z)
        estimate = torch.stack([rule.vjp(logits[i], index[i], grad[i]) for i in range(variables)])
        weight = p[range(variables), outcome].prod()
        mean += weight * estimate
        second += float(weight * estimate.square().sum())
    return mean, second


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("rule", [StraightThrough(1.3), ReinMax(), ReinMax(1.5)])
@pytest.mark.parametrize(("variables", "classes"), [(1, 4), (3, 3), (4, 2)])
def test_rows_without_noise_are_brute_force(rule, variables, classes, rescale):
    loss, logits = network(variables, classes)
    mean, second = by_hand(loss, logits, rule)
    gradient = exact_gradient(loss, logits)
    factor = float(gradient.norm() / mean.norm()) if rescale else 1.0
    row = compare(loss, logits, [rule], rescale=rescale).rows[0]
    bias_squared = float((factor * mean - gradient).square().sum())
    variance = factor**2 * (second - float(mean.square().sum()))
    assert row.bias_squared == pytest.approx(bias_squared, rel=1e-9, abs=1e-20)
    assert row.variance == pytest.approx(variance, rel=1e-9)
    assert row.mse == pytest.approx(bias_squared + variance, rel=1e-9)
    cosine = F.cosine_similarity(mean.flatten(), gradient.flatten(), 0)
    assert row.cosine == pytest.approx(cosine.item(), rel=1e-12)


def test_rows_with_noise_are_the_law_of_torchs_gumbel_softmax():
    loss, eta = quadratic(4, 1)
    tau, count, samples = 0.5, 100_000, 20_000
    gradient = exact_gradient(loss, eta).double()
    torch.manual_seed(0)
    x = eta.expand(count, 4).clone().requires_grad_()
    loss(F.gumbel_softmax(x, tau, hard=True)).sum().backward()
    error = x.grad.double() - gradient
    mse, bias = error.square().sum(-1), error.mean(0)
    row = compare(loss, eta, [GumbelST(tau)], samples=samples).rows[0]
    # Five standard errors of the difference of two means, the audit's over `samples` at least;
    # squaring a noisy mean adds its variance.
    width = 1 / count + 1 / samples
    assert row.mse == pytest.approx(mse.mean().item(), abs=5 * mse.std().item() * width**0.5)
    spread = 5 * 2 * (error @ bias).std().item() * width**0.5 + mse.mean().item() * width
    assert row.bias_squared == pytest.approx(bias.square().sum().item(), abs=spread)


def test_noise_is_drawn_apart_for_every_outcome_variable_sample_and_chunk(monkeypatch):
    loss, logits = network(3, 2)
    monkeypatch.setattr(exact, "CHUNK", 30)
    monkeypatch.setattr(tally, "CHUNK", 60)  # two samples of a chunk
    seen = []

    class Recorder(GumbelST):
        def gradient(self, logits, index, grad, noise):
            seen.extend(range(noise.offset, noise.offset + index.numel()))
            return super().gradient(logits, index, grad, noise)

    compare(loss, logits, [Recorder()], samples=7)
    assert len(seen) == 2**3 * 3 * 7
    assert len(set(seen)) == len(seen)


def test_the_seed_decides_the_noise():
    loss, logits = network(2, 3)

    def moments(seed):
        row = compare(loss, logits, ["gumbel"], samples=16, seed=seed).rows[0]
        return row.bias_squared, row.variance

    assert moments(1) == moments(1)
    assert moments(1) != moments(2)


def test_more_samples_sharpen_the_bias():
    loss, logits = network(1, 4)
    few, many = (
        compare(loss, logits, [GumbelST(0.2)], samples=n, seed=5).rows[0] for n in (1, 4096)
    )
    assert few.bias_squared > many.bias_squared


def test_rows_keep_order_and_names():
    loss, logits = network(2, 2)
    audit = compare(loss, logits, ["reinmax", GumbelST(0.5), "straight_through"], samples=4)
    assert [row.name for row in audit.rows] == ["reinmax", "GumbelST(tau=0.5)", "straight_through"]
    assert all(row.seconds > 0 for row in audit.rows)
    assert (audit.outcomes, audit.samples, audit.seed, audit.rescale) == (4, 4, 0, False)
    assert audit.method == "enumerated"
    assert {row.standard_errors for row in audit.rows} == {None}


def test_a_mean_of_zero_has_no_direction():
    audit = compare(
        lambda z: z.sum((-1, -2)), torch.zeros(2, 2), ["straight_through"], rescale=True
    )
    assert math.isnan(audit.rows[0].cosine)
    assert math.isnan(audit.rows[0].relative_squared_bias)
    record = json.loads(audit.to_json())["rows"][0]
    assert record["cosine"] is record["relative_squared_bias"] is None


@pytest.mark.parametrize("limit", [2**20, 0])
def test_the_squared_bias_is_told_relative_to_the_gradient(limit):
    loss, logits = network(2, 3)
    rules = [StraightThrough(), ReinMax(1.5)]
    squared = float(exact_gradient(loss, logits).square().sum())
    for rescale in (False, True):
        audit = compare(loss, logits, rules, samples=20_000, rescale=rescale, limit=limit)
        for row in audit.rows:
            assert row.gradient_squared == pytest.approx(squared, rel=1e-12 if limit else 0.1)
            assert row.relative_squared_bias == row.bias_squared / row.gradient_squared
            if rescale:
                assert row.relative_squared_bias == pytest.approx(2 * (1 - row.cosine), abs=1e-9)


def test_the_callers_gradients_are_left_alone():
    weight = torch.randn(3, requires_grad=True)
    logits = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        compare(lambda z: (z @ weight).exp(), logits, ["reinmax"])
    assert weight.grad is None
    assert logits.grad is None
    assert not exact_gradient(lambda z: (z @ weight).exp(), logits).requires_grad


def test_json_and_table_say_the_same():
    loss, eta = quadratic(4, 0)
    audit = compare(loss, eta, ["straight_through", "reinmax"], rescale=True)
    record = json.loads(audit.to_json())
    assert record["rescale"] is True
    assert record["rows"][0]["variance"] == audit.rows[0].variance
    assert record["method"] == "enumerated"
    head, *lines, foot = audit.table().splitlines()
    assert foot == "4 outcomes, enumerated"
    numbers = ["bias^2/|g|^2", "bias^2", "variance", "cosine", "mse", "seconds"]
    assert head.split() == ["estimator", *numbers]
    share = audit.rows[0].relative_squared_bias
    assert record["rows"][0]["relative_squared_bias"] == share
    assert lines[0].split()[:4] == ["straight_through", f"{share:.4g}", "0.2781", "0.7724"]
    assert len({len(line) for line in (head, *lines)}) == 1


def test_plot_puts_zero_left_of_all(tmp_path):
    loss, eta = quadratic(4, 0)
    audit = compare(loss, eta, ["reinmax", "straight_through"], rescale=True)
    figure = audit.plot(tmp_path / "audit.png")
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
    axes = figure.axes[0]
    points = {line.get_label(): line.get_xydata()[0] for line in axes.lines}
    assert points["straight_through"] == pytest.approx([0.2781, 0.7724], rel=1e-3)
    zero, variance = points["reinmax"]
    assert zero < points["straight_through"][0] / 10
    assert variance == pytest.approx(13.79, rel=1e-3)
    labels = {tick.get_text() for tick in axes.get_xticklabels()}
    assert "0" in labels
    assert "0" not in {tick.get_text() for tick in axes.get_yticklabels()}


LONG = ["reinmax", st.estimators.DecoupledST(tau_forward=0.5, tau_backward=1.5), "darn"]


@pytest.mark.parametrize(
    ("rules", "scale", "limit"),
    [
        (LONG, 1, 100),  # with a legend as wide as the panel
        (["reinmax", "gumbel"], 1, 0),  # with numbers close to each other
        (["reinmax"], 0, 100),  # with all of them 0
        ([st.estimators.ReinMax(tau=1 + i / 20) for i in range(25)], 1, 100),
    ],
)
def test_the_words_of_a_plot_can_be_read(rules, scale, limit):
    loss, eta = quadratic(4, 0)
    options = {"rescale": limit > 0, "limit": limit, "samples": 128}
    audit = compare(lambda z: scale * loss(z), eta, rules, **options)
    figure = audit.plot()
    names = {text.get_text() for text in check_legible(figure)}
    assert {row.name for row in audit.rows} <= names
    if scale == 0:
        axes = figure.axes[0]
        ticks = [*axes.get_xticklabels(which="both"), *axes.get_yticklabels(which="both")]
        assert {tick.get_text() for tick in ticks} == {"0", ""}


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    audit = compare(*quadratic(3, 0), ["reinmax"])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(st.StraightThroughError, match=r"pip install 'straightthrough\[studies\]'"):
        audit.plot()


def add(z):
    return z.sum((-2, -1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: exact_gradient(add, torch.zeros(21, 2)), st.ArgumentError, r"2\*\*21 outcomes"),
        (lambda: exact_gradient(add, torch.zeros(2, 3), limit=8), st.ArgumentError, "limit=8"),
        (lambda: exact_gradient(add, torch.zeros(2, 2, 2)), st.ShapeError, "one example"),
        (lambda: exact_gradient(add, torch.zeros(())), st.ShapeError, r"\(C,\) or \(L, C\)"),
        (lambda: exact_gradient(add, torch.zeros(0, 3)), st.ShapeError, "L, C >= 1"),
        (lambda: exact_gradient(add, torch.zeros(2, 3).long()), st.DtypeError, "logits must be"),
        (lambda: exact_gradient(add, torch.full((2, 3), math.nan)), st.ArgumentError, "finite"),
        (lambda: exact_gradient(lambda z: z.sum(-1), torch.zeros(2, 3)), st.ShapeError, "N = 9"),
        (lambda: exact_gradient(lambda z: 1.0, torch.zeros(2, 3)), st.ShapeError, "float"),
        (lambda: exact_gradient(lambda z: 1j * z[:, 0], torch.zeros(3)), st.DtypeError, "real"),
        (
            lambda: exact_gradient(lambda z: 1 / z[:, 0], torch.zeros(3)),
            st.ArgumentError,
            r"not finite at the outcome with classes \[1\]",
        ),
        (
            lambda: compare(lambda z: z[:, 0].sqrt(), torch.zeros(3), ["reinmax"]),
            st.ArgumentError,
            "gradient is not finite",
        ),
        (lambda: compare(add, torch.zeros(2, 3), "reinmax"), st.ArgumentError, "list of rules"),
        (lambda: compare(add, torch.zeros(2, 3), []), st.ArgumentError, "list of rules"),
        (lambda: compare(add, torch.zeros(2, 3), ["reimax"]), st.ArgumentError, "did you mean"),
        (
            lambda: compare(add, torch.zeros(2, 3), ["reinmax"], samples=0),
            st.ArgumentError,
            "samples must be",
        ),
        (
            lambda: compare(lambda z: z.detach().sum(-1), torch.zeros(3), ["reinmax"]),
            st.ArgumentError,
            "no gradient to the one-hots",
        ),
    ],
)
def test_wrong_use_raises(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_limit_itself_is_allowed():
    assert exact_gradient(add, torch.zeros(2, 3), limit=9).shape == (2, 3)
