"""Binary operators: frequencies, laws, gates, gradients, and the single-Gumbel bug."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import straightthrough as st
from gof import FAILURE_RATE, assert_law, assert_rate, assert_same_law, assert_same_mean
from straightthrough.core import kernels
from straightthrough.core.errors import FLOATING
from straightthrough.core.noise import Noise
from straightthrough.estimators import GumbelST, ReinMax, StraightThrough
from straightthrough.surrogates import Clipped, Identity, Sigmoid

NAN, INFINITY = math.nan, math.inf
DTYPES = pytest.mark.parametrize("dtype", FLOATING)
GAMMA, ZETA, TAU = -0.1, 1.1, 2 / 3


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def logistic_noise(count: int, seed: int) -> Tensor:
    """The float64 noise of `count` elements: log(1 - u) - log(u), written out here."""
    u = Noise(torch.tensor(seed)).elements(count, torch.float64)
    return (1 - u).log() - u.log()


# Frequencies.

DRAWS = {
    "bernoulli": lambda x, **kw: st.bernoulli(x, seed=1, **kw),
    "gumbel": lambda x, **kw: st.bernoulli(x, estimator="gumbel", seed=2, **kw),
    "identity": lambda x, **kw: st.bernoulli(x, estimator="identity", seed=3, **kw),
    "binary_concrete": lambda x, **kw: st.binary_concrete(x, tau=0.3, hard=True, seed=4, **kw),
    "hard_concrete": lambda x, **kw: st.hard_concrete(x, hard=True, seed=5, **kw),
}
EVERY_DRAW = pytest.mark.parametrize("name", DRAWS)


@EVERY_DRAW
@DTYPES
@pytest.mark.parametrize("x", [-8.0, -1.0, 0.0, 0.834, 4.0])
def test_frequencies_of_logits(name: str, dtype: torch.dtype, x: float) -> None:
    """Rare events too: at -8 it is 3.35e-4."""
    logits = torch.full((100_000,), x, dtype=dtype)
    y = DRAWS[name](logits)
    assert y.dtype == dtype
    assert ((y == 0) | (y == 1)).all()
    assert_rate(int((y == 1).sum()), y.numel(), sigmoid(float(logits[0])))


@EVERY_DRAW
@DTYPES
@pytest.mark.parametrize("p", [3.35e-4, 0.25, 0.697])
def test_frequencies_of_probabilities(name: str, dtype: torch.dtype, p: float) -> None:
    probs = torch.full((100_000,), p, dtype=dtype)
    y = DRAWS[name](None, probs=probs)
    assert_rate(int((y == 1).sum()), y.numel(), float(probs[0]))


def test_torch_fires_23_times_too_often_in_bfloat16() -> None:
    """The rare event again: noise drawn in bf16 cannot tell it from 2^-7."""
    torch.manual_seed(0)
    logits = torch.full((100_000,), -8.0, dtype=torch.bfloat16)
    theirs = torch.distributions.RelaxedBernoulli(torch.tensor(1.0).bfloat16(), logits=logits)
    fired = int((theirs.rsample() > 0.5).sum())
    assert stats.binomtest(fired, 100_000, sigmoid(-8)).pvalue < FAILURE_RATE
    assert 20 < fired / 100_000 / sigmoid(-8) < 26


def test_one_gumbel_fires_with_another_probability() -> None:
    """logit p + G > 0 has probability 1 - exp(-odds): .9000 for p = .697; two Gumbels have p."""
    p, rows = 0.697, 100_000
    draw = np.random.default_rng(0)
    logit = math.log(p / (1 - p))
    fired = int((logit + draw.gumbel(size=rows) > 0).sum())
    assert 1 - math.exp(-p / (1 - p)) == pytest.approx(0.9, abs=3e-4)
    assert_rate(fired, rows, 1 - math.exp(-p / (1 - p)))
    assert stats.binomtest(fired, rows, p).pvalue < FAILURE_RATE
    assert_rate(int((logit + draw.gumbel(size=rows) - draw.gumbel(size=rows) > 0).sum()), rows, p)
    for name in DRAWS:
        assert_rate(int(DRAWS[name](None, probs=torch.full((rows,), p)).sum()), rows, p)


# Laws of the soft values.


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_law_of_binary_concrete(tau: float) -> None:
    """P(y <= t) = sigmoid(tau logit(t) - x)."""
    x = torch.full((100_000,), 0.7, dtype=torch.float64)
    y = st.binary_concrete(x, tau=tau, seed=6).numpy()
    assert_law(y, lambda t: stats.logistic.cdf(tau * (np.log(t) - np.log1p(-t)) - 0.7))


@pytest.mark.parametrize("x", [-2.0, 0.5, 3.0])
def test_law_of_hard_concrete(x: float) -> None:
    """Exactly 0 and exactly 1 at the stated rates, and the stretched concrete between."""
    rows = 100_000
    gate = st.hard_concrete(torch.full((rows,), x, dtype=torch.float64), seed=7)

    def below(z: np.ndarray | float) -> np.ndarray:  # P(s (zeta - gamma) + gamma <= z)
        s = (np.asarray(z) - GAMMA) / (ZETA - GAMMA)
        return stats.logistic.cdf(TAU * np.log(s / (1 - s)) - x)

    assert_rate(int((gate != 0).sum()), rows, st.l0_norm(torch.tensor(x).double()).item())
    assert_rate(int((gate == 0).sum()), rows, float(below(0.0)))
    assert_rate(int((gate == 1).sum()), rows, float(1 - below(1.0)))
    inside = gate[(gate > 0) & (gate < 1)].numpy()
    low, high = below(0.0), below(1.0)
    assert_law(inside, lambda z: (below(z) - low) / (high - low))


def test_l0_norm_by_hand() -> None:
    """sigmoid(x - 2/3 log(.1 / 1.1)): odds e^x 11^(2/3), and 11^(2/3) = 4.9460874 = e^1.5985969."""
    x = torch.tensor([0.0, -1.5985969, 2.0], dtype=torch.float64, requires_grad=True)
    probability = st.l0_norm(x)
    assert probability.tolist() == pytest.approx([0.8318222, 0.5, 0.9733667], abs=1e-7)
    probability.sum().backward()
    wanted = [p * (1 - p) for p in probability.tolist()]
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx(wanted, rel=1e-12)
    other = st.l0_norm(torch.zeros(1).double(), tau=0.5, gamma=-0.25, zeta=1.5).item()
    assert other == pytest.approx(sigmoid(0.5 * math.log(6)))


@DTYPES
def test_hard_concrete_mean_by_hand(dtype: torch.dtype) -> None:
    """clamp(1.2 sigmoid(x) - .1, 0, 1), with no temperature in it."""
    x = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, INFINITY, NAN], dtype=dtype, requires_grad=True)
    mean = st.hard_concrete_mean(x)
    # sigmoid(1) = .73105858, sigmoid'(1) = .19661193; half inputs see the last rounding alone.
    wanted = [0.0, 0.22272970, 0.5, 0.77727030, 1.0, 1.0, NAN]
    tolerance = max(1e-7, 0.3 * torch.finfo(dtype).eps)
    assert mean.tolist() == pytest.approx(wanted, abs=tolerance, nan_ok=True)
    assert mean.dtype == dtype
    gradient = torch.autograd.grad(mean[:6].sum(), x)[0][:6]
    slopes = [0, 0.23593432, 0.3, 0.23593432, 0, 0]
    assert gradient.tolist() == pytest.approx(slopes, abs=tolerance)


# Gradients.


@pytest.mark.parametrize("of_probs", [False, True])
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("tau", [TAU, 0.3])
def test_hard_concrete_is_the_formula_people_write(of_probs: bool, hard: bool, tau: float) -> None:
    """Value and gradient of clamp(sigmoid((logit + noise) / tau) (zeta - gamma) + gamma, 0, 1)."""
    x = torch.linspace(0.02, 0.98, 500, dtype=torch.float64)
    x = (x if of_probs else x.logit()).requires_grad_()
    grad = torch.randn(500, dtype=torch.float64)
    given = {"probs": x} if of_probs else {"logits": x}
    gate = st.hard_concrete(**given, tau=tau, gamma=-0.2, zeta=1.3, hard=hard, seed=8)
    noisy = (torch.logit(x) if of_probs else x) + logistic_noise(500, seed=8)
    soft = torch.clamp(torch.sigmoid(noisy / tau) * 1.5 - 0.2, 0, 1)
    value = (noisy > 0).double() if hard else soft
    torch.testing.assert_close(gate, value, rtol=1e-12, atol=1e-12)
    assert ((soft == 0).any(), (soft == 1).any()) == (True, True)  # both clamps take part
    got = torch.autograd.grad(gate, x, grad)[0]
    wanted = torch.autograd.grad(soft, x, grad)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("of_probs", [False, True])
@pytest.mark.parametrize("hard", [False, True])
def test_binary_concrete_is_the_formula(of_probs: bool, hard: bool) -> None:
    x = torch.linspace(0.02, 0.98, 200, dtype=torch.float64)
    x = (x if of_probs else x.logit()).requires_grad_()
    grad = torch.randn(200, dtype=torch.float64)
    given = {"probs": x} if of_probs else {"logits": x}
    y = st.binary_concrete(**given, tau=0.7, hard=hard, seed=9)
    noisy = (torch.logit(x) if of_probs else x) + logistic_noise(200, seed=9)
    soft = torch.sigmoid(noisy / 0.7)
    torch.testing.assert_close(y, (noisy > 0).double() if hard else soft, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad(y, x, grad)[0]
    torch.testing.assert_close(got, torch.autograd.grad(soft, x, grad)[0], rtol=1e-9, atol=1e-12)


def test_gumbel_rule_has_the_joint_law_of_the_hard_binary_concrete() -> None:
    """Noise drawn given the outcome, against noise drawn first."""
    rows = 100_000

    def pairs(draw) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]  # lambdas
        x = torch.full((rows,), 0.8, dtype=torch.float64, requires_grad=True)
        y = draw(x)
        loss = ((2 * y - 0.3) ** 2).sum()
        return y.detach().numpy(), torch.autograd.grad(loss, x)[0].numpy()

    given, ours = pairs(lambda x: st.bernoulli(x, estimator=GumbelST(0.5), seed=1))
    first, theirs = pairs(lambda x: st.binary_concrete(x, tau=0.5, hard=True, seed=2))
    assert_same_mean(ours, theirs)
    for outcome in (0, 1):
        assert_same_law(ours[given == outcome], theirs[first == outcome])


def test_rules_by_hand() -> None:
    """p = 3/4, g = 8, for logits and (divided by p (1 - p) = 3/16) for probabilities."""
    p = torch.full((64,), 0.75, dtype=torch.float64)
    for rule, at_one, at_zero in [
        (ReinMax(), 1.0, 3.0),  # g (1 - p) / 2 and g p / 2
        (StraightThrough(), 1.5, 1.5),  # g p (1 - p)
    ]:
        for given, scale in (({"logits": p.logit()}, 1.0), ({"probs": p}, 16 / 3)):
            (x,) = given.values()
            x.requires_grad_()
            y = st.bernoulli(**given, estimator=rule, seed=0)
            got = torch.autograd.grad(y, x, torch.full_like(y, 8.0))[0]
            wanted = at_one * scale * y + at_zero * scale * (1 - y)
            assert y.unique().tolist() == [0, 1]
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("rule", "slope"),
    [
        (Identity(), lambda x: 1.0),
        (Clipped(), lambda x: float(abs(x) <= 1)),
        (Sigmoid(1.0), lambda x: sigmoid(x) * sigmoid(-x)),
    ],
)
def test_surrogates_take_the_parameter_as_it_is(rule, slope) -> None:  # type: ignore[no-untyped-def]  # lambdas
    x = torch.tensor([-2.0, -1.0, 0.3, 0.9, 1.5], dtype=torch.float64, requires_grad=True)
    got = torch.autograd.grad(st.bernoulli(x, estimator=rule, seed=0).sum(), x)[0]
    assert got.tolist() == pytest.approx([slope(v) for v in x.tolist()], rel=1e-12)
    p = torch.tensor([0.2, 0.9], dtype=torch.float64, requires_grad=True)
    got = torch.autograd.grad(st.bernoulli(probs=p, estimator=rule, seed=0).sum(), p)[0]
    assert got.tolist() == pytest.approx([slope(v) for v in p.tolist()], rel=1e-12)


# Edge cases and errors.


@EVERY_DRAW
@DTYPES
def test_certain_and_invalid_parameters(name: str, dtype: torch.dtype) -> None:
    logits = torch.tensor([-INFINITY, INFINITY, NAN], dtype=dtype, requires_grad=True)
    y = DRAWS[name](logits)
    assert y[:2].tolist() == [0, 1]
    assert y[2].isnan()
    if name != "identity":
        assert torch.autograd.grad(y[:2].sum(), logits)[0][:2].tolist() == [0, 0]
    probs = torch.tensor([0.0, 1.0, NAN, -0.25, 1.25], dtype=dtype, requires_grad=True)
    y = DRAWS[name](None, probs=probs)
    assert y[:2].tolist() == [0, 1]
    assert y[2:].isnan().all()
    assert torch.autograd.grad(y[:2].sum(), probs)[0][:2].isfinite().all()


@DTYPES
@pytest.mark.parametrize("tau", [0.5, 30.0])
@pytest.mark.parametrize("gate", [st.binary_concrete, st.hard_concrete])
def test_soft_gates_at_certain_and_invalid_probabilities(gate, dtype, tau) -> None:  # type: ignore[no-untyped-def]  # parameters
    probs = torch.tensor([0.0, 1.0, NAN, -0.25, 1.25], dtype=dtype, requires_grad=True)
    for disabled in (contextlib.nullcontext(), kernels.disabled()):
        with disabled:
            y = gate(probs=probs, tau=tau, seed=0)
            assert y[:2].tolist() == [0, 1]
            assert y[2:].isnan().all()
            assert torch.autograd.grad(y[:2].sum(), probs)[0][:2].tolist() == [0, 0]


@DTYPES
@pytest.mark.parametrize("gate", [st.bernoulli, st.binary_concrete, st.hard_concrete])
def test_the_second_derivative_to_a_certain_probability_is_0(gate, dtype) -> None:  # type: ignore[no-untyped-def]  # parameters
    probs = torch.tensor([0.0, 1.0, 0.5], dtype=dtype, requires_grad=True)
    grad = torch.ones(3, dtype=dtype, requires_grad=True)
    (first,) = torch.autograd.grad(gate(probs=probs, seed=0), probs, grad, create_graph=True)
    for second in torch.autograd.grad(first.sum(), (probs, grad)):
        assert second[:2].tolist() == [0, 0]
        assert second[2].isfinite()


@DTYPES
@pytest.mark.parametrize("gate", [st.bernoulli, st.binary_concrete, st.hard_concrete])
def test_gradients_to_tiny_probabilities_are_finite(gate, dtype) -> None:  # type: ignore[no-untyped-def]  # parameters
    """1 / p is beyond the dtype's range, or all but."""
    warm = {"estimator": StraightThrough(100.0)} if gate is st.bernoulli else {"tau": 100.0}
    probs = torch.full((64,), torch.finfo(dtype).tiny, dtype=dtype, requires_grad=True)
    for disabled in (contextlib.nullcontext(), kernels.disabled()):
        with disabled:
            y = gate(probs=probs, **warm, seed=0)
            gradient = torch.autograd.grad(y, probs, torch.full_like(y, 6e4))[0]
            infinite = torch.autograd.grad(gate(probs=probs, **warm, seed=0), probs, y + INFINITY)[
                0
            ]
        assert gradient.isfinite().all()
        assert not infinite.isfinite().any()


@EVERY_DRAW
def test_strict_names_the_first_bad_element(name: str) -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, NAN]])
    with st.strict():
        DRAWS[name](logits[0])
        with pytest.raises(st.ArgumentError, match=r"row \(1, 1\) has no valid outcome"):
            DRAWS[name](logits)


@EVERY_DRAW
def test_exactly_one_parameter(name: str) -> None:
    with pytest.raises(st.ArgumentError, match="got both"):
        DRAWS[name](torch.zeros(1), probs=torch.zeros(1))
    with pytest.raises(st.ArgumentError, match="got neither"):
        DRAWS[name](None)
    with pytest.raises(st.DtypeError, match=r"probs must be float16.*torch\.bool"):
        DRAWS[name](None, probs=torch.ones(1, dtype=torch.bool))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: st.binary_concrete(x, tau=0.0), "tau must be above 0, got 0"),
        (lambda x: st.hard_concrete(x, tau=-1.0), "tau must be above 0"),
        (lambda x: st.hard_concrete(x, gamma=0.0), "gamma must be below 0 and zeta above 1"),
        (lambda x: st.hard_concrete(x, zeta=1.0), "gamma must be below 0 and zeta above 1"),
        (lambda x: st.hard_concrete_mean(x, gamma=NAN), "gamma must be a finite number"),
        (lambda x: st.l0_norm(x, zeta=0.5), "gamma must be below 0 and zeta above 1"),
        (lambda x: st.l0_norm(x, tau=INFINITY), "tau must be a finite number"),
        (lambda x: st.bernoulli(x, estimator="reinmix"), "did you mean 'reinmax'"),
        (lambda x: st.bernoulli(x, estimator="softmax"), "unknown here"),
    ],
)
def test_errors_of_arguments(call, message: str) -> None:  # type: ignore[no-untyped-def]  # lambdas
    with pytest.raises(st.ArgumentError, match=message):
        call(torch.zeros(2))
