"""What the estimators are on average: by enumeration where they can be, by sampling else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, stats
from torch import Tensor

import straightthrough as st
from gof import FAILURE_RATE, assert_frequencies, assert_law, assert_same_law, assert_same_mean
from straightthrough.core.noise import Noise
from straightthrough.estimators import (
    DARN,
    CategoricalEstimator,
    GappedST,
    GumbelRao,
    GumbelST,
    ReinMax,
    ReinMaxCV,
    ReinMaxRao,
    StraightThrough,
)
from straightthrough.estimators.gumbel import conditional_gumbels, conditional_logistic

THETA = torch.tensor([0.5, -1.0, 1.5], dtype=torch.float64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def jacobian(q: Tensor) -> Tensor:
    return torch.diag(q) - torch.outer(q, q)


def random_problem(classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, and a quadratic loss z^T A z + b^T z with A not symmetric."""
    draw = generator(seed)
    sizes = ((classes,), (classes, classes), (classes,))
    logits, a, b = (torch.randn(size, dtype=torch.float64, generator=draw) for size in sizes)
    return logits, a, b


def enumerated_mean(rule: CategoricalEstimator, logits: Tensor, a: Tensor, b: Tensor) -> Tensor:
    outcomes = torch.eye(logits.numel(), dtype=torch.float64)
    grads = outcomes @ (a + a.T) + b
    index = torch.arange(logits.numel())
    estimates = rule.vjp(logits.expand_as(outcomes), index, grads)
    return logits.softmax(0) @ estimates


def kept(theta: Tensor, index: int, count: int) -> Tensor:
    """Return theta + G, `(count, C)`, plain Gumbels kept where their argmax is `index`."""
    noise = torch.from_numpy(np.random.default_rng(index).gumbel(size=(40 * count, len(theta))))
    perturbed = theta + noise
    return perturbed[perturbed.argmax(-1) == index][:count]


@pytest.mark.parametrize("classes", [2, 5, 17])
def test_reinmax_is_unbiased_for_quadratics(classes: int) -> None:
    logits, a, b = random_problem(classes, seed=classes)
    p = logits.softmax(0)
    values = a.diagonal() + b  # the loss at each one-hot
    exact = p * (values - p @ values)
    torch.testing.assert_close(enumerated_mean(ReinMax(), logits, a, b), exact, rtol=0, atol=1e-10)
    # The check has teeth: neither of these is.
    for biased in (StraightThrough(), ReinMax(tau=1.5)):
        assert (enumerated_mean(biased, logits, a, b) - exact).abs().max() > 1e-2


def test_reinmax_is_unbiased_for_several_variables() -> None:
    """Three variables of four classes with a joint quadratic loss, over all 64 outcomes."""
    _, a, b = random_problem(12, seed=3)
    logits = torch.randn(3, 4, dtype=torch.float64, generator=generator(4))
    index = torch.cartesian_prod(*[torch.arange(4)] * 3)
    outcomes = F.one_hot(index, 4).double()
    flat = outcomes.reshape(64, 12)
    log_weights = (outcomes * logits.log_softmax(-1)).sum((1, 2))
    values = ((flat @ a) * flat).sum(-1) + flat @ b
    score = outcomes - logits.softmax(-1)
    exact = ((log_weights.exp() * values)[:, None, None] * score).sum(0)
    grads = (flat @ (a + a.T) + b).reshape(64, 3, 4)
    estimates = ReinMax().vjp(logits.expand(64, 3, 4), index, grads)
    mean = (log_weights.exp()[:, None, None] * estimates).sum(0)
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("tau", [1.0, 1.1, 1.5])
def test_reinmax_is_the_second_order_rule(tau: float) -> None:
    """2 J((p_tau + D) / 2) g - J(p) g / 2, with Jacobians as matrices."""
    logits, _, g = random_problem(6, seed=0)
    p, p_tau = logits.softmax(0), (logits / tau).softmax(0)
    for index in range(6):
        middle = (p_tau + F.one_hot(torch.tensor(index), 6)) / 2
        wanted = 2 * jacobian(middle) @ g - jacobian(p) @ g / 2
        got = ReinMax(tau).vjp(logits, torch.tensor(index), g)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-14)


def test_reinmax_is_the_mean_of_straight_through_and_darn() -> None:
    logits, _, g = random_problem(6, seed=1)
    p = logits.softmax(0)
    for index in range(6):
        outcome = torch.tensor(index)
        darn = (F.one_hot(outcome, 6) - p) * (g[index] - p @ g)
        plain, ours, mean = (
            rule.vjp(logits, outcome, g) for rule in (StraightThrough(), DARN(), ReinMax())
        )
        torch.testing.assert_close(ours, darn, rtol=0, atol=1e-15)
        torch.testing.assert_close(mean, (plain + darn) / 2, rtol=0, atol=1e-15)


def test_darn_is_unbiased_for_linear_losses_alone() -> None:
    logits, a, b = random_problem(5, seed=5)
    p = logits.softmax(0)
    linear = enumerated_mean(DARN(), logits, torch.zeros_like(a), b)
    torch.testing.assert_close(linear, jacobian(p) @ b, rtol=0, atol=1e-15)
    exact = jacobian(p) @ (a.diagonal() + b)
    assert (enumerated_mean(DARN(), logits, a, b) - exact).abs().max() > 1e-2
    sides = [enumerated_mean(rule, logits, a, b) - exact for rule in (DARN(), StraightThrough())]
    torch.testing.assert_close(*map(Tensor.abs, sides), rtol=0, atol=1e-14)


@pytest.mark.parametrize("gap", [0.0, 1.0, "expected"])
@pytest.mark.parametrize("tau", [0.3, 2.0])
def test_gapped_is_the_published_rule(gap: float | str, tau: float) -> None:
    """t = theta + m1 - m2, with m1 and m2 as the paper writes them."""
    logits, _, g = random_problem(6, seed=2)
    for index in range(6):
        p_x = logits.softmax(0)[index]
        lead = -torch.log(1 - p_x) / p_x if isinstance(gap, str) else gap
        is_x = torch.arange(6) == index
        up = torch.where(is_x, logits.max() - logits[index], 0.0)
        down = torch.where(is_x, 0.0, (logits - logits.max() + lead).clamp(min=0))
        wanted = jacobian(((logits + up - down) / tau).softmax(0)) @ g / tau
        got = GappedST(tau, gap).vjp(logits, torch.tensor(index), g)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_expected_gap_is_the_mean_lead_of_gumbels(index: int) -> None:
    perturbed = kept(THETA, index, 60_000)
    first, second = perturbed.topk(2, -1).values.T
    p_x = THETA.softmax(0)[index].item()
    error = (first - second).std().item() / math.sqrt(len(first))
    lead = (first - second).mean().item()
    assert abs(lead + math.log1p(-p_x) / p_x) < stats.norm.isf(FAILURE_RATE / 2) * error


@pytest.mark.parametrize("gap", [0.0, 1.0, "expected"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gapped_where_the_outcome_is_all_but_certain_or_impossible(
    gap: float | str, dtype: torch.dtype
) -> None:
    logits = torch.tensor([80.0, -80.0, -math.inf], dtype=dtype).expand(2, 3).requires_grad_()
    grad = torch.tensor([1.0, -2.0, 3.0], dtype=dtype)
    certain, odd = GappedST(gap=gap).vjp(logits, torch.tensor([0, 1]), grad.expand(2, 3))
    # At most e^-gap lies on the others: nothing where the outcome is certain, 1 / (1 + e^-1) where
    # Gumbels would have it lead by 1.
    torch.testing.assert_close(certain, torch.zeros(3, dtype=dtype))
    weight = torch.tensor({0.0: 0.5}.get(gap, 1 / (1 + math.exp(-1.0))), dtype=dtype)
    slope = 3 * weight * (1 - weight)
    torch.testing.assert_close(odd, torch.stack([slope, -slope, 0 * slope]))
    (second,) = torch.autograd.grad((certain + odd).sum(), logits)
    assert second.isfinite().all()


# Gumbels given the outcome.

ROWS = 60_000


@pytest.fixture(scope="module")
def joint() -> tuple[np.ndarray, np.ndarray]:
    """Outcomes drawn by inverse CDF, then theta + G drawn given them."""
    rows = THETA.expand(ROWS, 3)
    index = st.categorical(rows, seed=3).argmax(-1)
    centred = conditional_gumbels(rows, index, Noise(torch.tensor(3)))
    return index.numpy(), (centred + THETA.logsumexp(0)).numpy()


def test_gumbels_given_the_outcome_have_it_as_argmax(joint: tuple[np.ndarray, np.ndarray]) -> None:
    index, perturbed = joint
    assert (perturbed.argmax(-1) == index).all()


def test_joint_law_agrees_with_rejection(joint: tuple[np.ndarray, np.ndarray]) -> None:
    """Plain Gumbels, kept by their argmax, have the same law for every outcome and class."""
    index, perturbed = joint
    plain = THETA.numpy() + np.random.default_rng(7).gumbel(size=(ROWS, 3))
    assert_frequencies(np.bincount(index), THETA.softmax(0).numpy())
    for outcome in range(3):
        ours, theirs = perturbed[index == outcome], plain[plain.argmax(-1) == outcome]
        for one in range(3):
            assert_same_law(ours[:, one], theirs[:, one])
            assert_same_law(ours[:, one] - ours[:, one - 1], theirs[:, one] - theirs[:, one - 1])


def test_gumbels_of_every_class_are_plain_gumbels(joint: tuple[np.ndarray, np.ndarray]) -> None:
    """The outcome averaged out, theta_j + G_j is Gumbel, and the classes are independent."""
    _, perturbed = joint
    noise = perturbed - THETA.numpy()
    for one in range(3):
        assert_law(noise[:, one], stats.gumbel_r.cdf)
    cells = np.floor(4 * stats.gumbel_r.cdf(noise)).astype(int) @ [16, 4, 1]
    assert_frequencies(np.bincount(cells, minlength=64), np.full(64, 1 / 64))


@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_gumbel_gradient_has_the_law_of_torch(tau: float) -> None:
    """Outcome and gradient together, against `F.gumbel_softmax(hard=True)`."""
    rows = 100_000
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def gradients(draw) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]  # lambdas
        logits = THETA.expand(rows, 3).clone().requires_grad_()
        z = draw(logits)
        # Not linear in z, so the gradient depends on the outcome.
        loss = ((z @ weight - 0.4) ** 2).sum()
        return z.detach().argmax(-1).numpy(), torch.autograd.grad(loss, logits)[0].numpy()

    torch.manual_seed(1)
    index, ours = gradients(lambda logits: st.categorical(logits, GumbelST(tau), seed=1))
    other, theirs = gradients(lambda logits: F.gumbel_softmax(logits, tau, hard=True))
    assert_same_mean(ours, theirs)
    assert_same_mean(ours**2, theirs**2)
    for outcome in range(3):
        for one in range(3):
            assert_same_law(ours[index == outcome, one], theirs[other == outcome, one])


@pytest.mark.parametrize("tau", [0.5, 1.0])
@pytest.mark.parametrize("index", [0, 1])
def test_gumbel_mean_gradient_by_quadrature(tau: float, index: int) -> None:
    """Two classes: theta_1 - theta_0 + logistic noise, given its sign."""
    rows, theta = 100_000, 0.8
    logits = torch.tensor([0.0, theta], dtype=torch.float64).expand(rows, 2)
    grad = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(rows, 2)
    got = GumbelST(tau).vjp(logits, torch.full((rows,), index), grad, seed=2)[:, 1].numpy()

    def moment(order: int) -> float:
        def integrand(t: float) -> float:
            slope = 1 / (4 * tau * math.cosh(t / (2 * tau)) ** 2)
            return slope**order * stats.logistic.pdf(t - theta)

        ends = (0, 60) if index else (-60, 0)
        mass = stats.logistic.cdf(theta) if index else stats.logistic.sf(theta)
        return integrate.quad(integrand, *ends, epsabs=1e-12)[0] / mass

    error = math.sqrt((moment(2) - moment(1) ** 2) / rows)
    assert abs(got.mean() - moment(1)) < stats.norm.isf(FAILURE_RATE / 2) * error


@pytest.mark.parametrize("x", [-30.0, -2.0, 0.0, 0.834, 30.0])
@pytest.mark.parametrize("outcome", [False, True])
def test_conditional_logistic_law(x: float, outcome: bool) -> None:
    """x + L given its sign, L standard logistic: P(0 < x + L <= t) / P(x + L > 0)."""
    rows = 400_000
    logit = torch.full((rows,), x, dtype=torch.float64)
    drawn = conditional_logistic(
        logit, torch.full((rows,), outcome), Noise(torch.tensor(6))
    ).numpy()
    assert ((drawn > 0) == outcome).all()
    toward = x if outcome else -x  # the law of |x + L| on that side
    survival, mass = stats.logistic.sf, stats.logistic.sf(-toward)
    assert_law(np.abs(drawn), lambda t: 1 - survival(t - toward) / mass)


def test_conditional_logistic_in_float32_at_large_logits() -> None:
    """Against all odds the distance is exponential; nothing cancels, nothing is infinite."""
    x = torch.full((50_000,), 80.0)
    drawn = conditional_logistic(x, torch.zeros(50_000, dtype=torch.bool), Noise(torch.tensor(6)))
    assert_law(-drawn.double().numpy(), stats.expon.cdf)
    drawn = conditional_logistic(x, torch.ones(50_000, dtype=torch.bool), Noise(torch.tensor(6)))
    assert_law(drawn.double().numpy() - 80, stats.logistic.cdf)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_gumbel_rao_is_the_mean_given_the_outcome(index: int) -> None:
    """E[J(softmax((theta + G) / tau)) g / tau], G by rejection; the variance falls as 1 / K."""
    tau, samples, rows = 0.5, 4, 20_000
    g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    y = (kept(THETA, index, rows * samples) / tau).softmax(-1)
    single = (y * (g - (y @ g)[:, None]) / tau).numpy()
    wanted = single.reshape(rows, samples, 3).mean(1)
    outcome, grads = torch.full((rows,), index), g.expand(rows, 3)
    logits = THETA.expand(rows, 3)
    got = GumbelRao(tau, samples).vjp(logits, outcome, grads, seed=5).numpy()
    assert_same_mean(got, wanted)
    assert_same_mean(got**2, wanted**2)
    plain = GumbelST(tau).vjp(logits, outcome, grads, seed=5).numpy()
    assert_same_mean(got, plain)
    np.testing.assert_allclose(samples * got.var(0), plain.var(0), rtol=0.1)


def relaxed(index: int, g: Tensor, tau: float, count: int) -> np.ndarray:
    """Return `count` draws of J(softmax((theta_D + G) / tau)) g / tau, G by rejection."""
    middle = (THETA.softmax(0) + F.one_hot(torch.tensor(index), 3)) / 2
    y = (kept(middle.log(), index, count) / tau).softmax(-1)
    return (y * (g - (y @ g)[:, None]) / tau).numpy()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_reinmax_rao_relaxes_the_midpoint(index: int) -> None:
    tau, samples, rows = 0.5, 4, 20_000
    g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    wanted = 2 * relaxed(index, g, tau, rows * samples).reshape(rows, samples, 3).mean(1)
    wanted = wanted - (jacobian(THETA.softmax(0)) @ g / 2).numpy()
    outcome, rule = torch.full((rows,), index), ReinMaxRao(tau, samples)
    got = rule.vjp(THETA.expand(rows, 3), outcome, g.expand(rows, 3), seed=6).numpy()
    assert_same_mean(got, wanted)
    assert_same_mean(got**2, wanted**2)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_control_variate_has_mean_0_given_the_outcome(index: int) -> None:
    tau, eta, samples, rows = 0.5, 1.5, 3, 40_000
    g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    outcome, rule = torch.full((rows,), index), ReinMaxCV(tau, eta, samples)
    got = rule.vjp(THETA.expand(rows, 3), outcome, g.expand(rows, 3), seed=7)
    added = (got - ReinMax().vjp(THETA, torch.tensor(index), g)).numpy()
    p_values = stats.ttest_1samp(added, 0.0).pvalue
    assert (p_values > FAILURE_RATE / 3).all()
    one = relaxed(index, g, tau, rows)
    np.testing.assert_allclose(added.var(0), eta**2 * (1 + 1 / samples) * one.var(0), rtol=0.1)


def test_reinmax_cv_is_as_unbiased_as_reinmax() -> None:
    """Outcomes enumerated, the noise sampled; and eta = 0 is ReinMax."""
    logits, a, b = random_problem(4, seed=6)
    outcomes, rows = torch.eye(4, dtype=torch.float64), 20_000
    grads, index = outcomes @ (a + a.T) + b, torch.arange(4)
    estimates = ReinMaxCV().vjp(
        logits.expand(rows, 4, 4), index.expand(rows, 4), grads.expand(rows, 4, 4), seed=0
    )
    means = (logits.softmax(0)[:, None] * estimates).sum(1)
    exact = jacobian(logits.softmax(0)) @ (a.diagonal() + b)
    assert (stats.ttest_1samp(means.numpy(), exact.numpy()).pvalue > FAILURE_RATE / 4).all()
    plain = ReinMaxCV(eta=0).vjp(logits.expand(4, 4), index, grads)
    torch.testing.assert_close(plain, ReinMax().vjp(logits.expand(4, 4), index, grads))


def test_gumbel_rao_of_one_sample_is_gumbel_st() -> None:
    logits, grad = torch.randn(6, 5), torch.randn(6, 5)
    index = torch.arange(6) % 5
    one, plain = (r.vjp(logits, index, grad, seed=1) for r in (GumbelRao(0.7, 1), GumbelST(0.7)))
    assert torch.equal(one, plain)


@pytest.mark.parametrize(
    "rule",
    [
        StraightThrough(1.3),
        DARN(),
        GappedST(1.3, 0.7),
        GappedST(0.7, "expected"),
        GumbelST(0.7),
        GumbelRao(0.7, 3),
        ReinMax(),
        ReinMax(1.5),
        ReinMaxRao(0.7, 3),
        ReinMaxCV(0.7, 1.5, 3),
    ],
    ids=repr,
)
def test_binary_gradient_is_that_of_two_classes(rule: CategoricalEstimator) -> None:
    """With logits 0 and x; rules whose noise differs are compared in law."""
    rows = 40_000 if rule.draws_noise else 9
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None].expand(9, rows // 9).reshape(-1)
    outcome = torch.arange(x.numel()) % 2 == 0
    grad = torch.full_like(x, 1.7)
    binary = rule.binary_gradient(x, outcome, grad, Noise(torch.tensor(0)))
    pair = torch.stack([torch.zeros_like(x), x], -1)
    grads = torch.stack([torch.zeros_like(x), grad], -1)
    classes = rule.gradient(pair, outcome.long(), grads, Noise(torch.tensor(1)))[:, 1]
    if not rule.draws_noise:
        torch.testing.assert_close(binary, classes, rtol=1e-12, atol=1e-14)
        return
    for logit in x.unique():
        for side in (True, False):
            chosen = (x == logit) & (outcome == side)
            assert_same_law(binary[chosen].numpy(), classes[chosen].numpy())
