"""Counts: their laws against scipy's, and the edges of parameters and dtypes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import straightthrough as st
from gof import assert_frequencies, assert_law, assert_rate
from laws import Law, binomial, geometric, negative_binomial, poisson
from straightthrough.core.errors import FLOATING
from straightthrough.core.noise import Noise
from straightthrough.estimators import Fini
from straightthrough.ops.counts import reference

NAN, INFINITY = math.nan, math.inf
DTYPES = pytest.mark.parametrize("dtype", FLOATING)

# Laws.

WIDE = [
    *poisson(0.3),
    *poisson(19.5),
    *poisson(3e3),
    *poisson(1e6),
    *binomial(7, 0.35),
    *binomial(500, 0.03),
    *binomial(32768, 0.6),
    *geometric(0.4),
    *geometric(1e-3),
    *negative_binomial(0.3, 0.7),
    *negative_binomial(2.5, 0.5),
    *negative_binomial(30.0, 0.3),
    *negative_binomial(40.0, 0.9),
    *negative_binomial(1.0, 0.999),
]


def counted(y: Tensor, law: Law) -> tuple[np.ndarray, np.ndarray]:
    """Draws and probabilities in at most a few hundred cells, the tails in the outer two."""
    first, last = law.scipy.ppf(1e-3), law.scipy.ppf(1 - 1e-3)
    edges = np.unique(np.linspace(first - 0.5, last + 0.5, 200).round() + 0.5)
    seen = np.bincount(np.searchsorted(edges, y.double().numpy()), minlength=len(edges) + 1)
    below = law.scipy.cdf(np.floor(edges))
    return seen, np.diff([0.0, *below, 1.0])


@pytest.mark.parametrize("law", WIDE, ids=str)
def test_law(law: Law) -> None:
    assert_frequencies(*counted(law.draw(50_000, seed=1), law))


@DTYPES
@pytest.mark.parametrize("draw", [
    lambda x: (st.poisson(x.exp(), seed=2), stats.poisson(3)),
    lambda x: (st.poisson(log_rate=x, seed=3), stats.poisson(3)),
    lambda x: (st.binomial(x, total_count=8, seed=4), stats.binom(8, 0.75)),
    lambda x: (st.geometric(x, seed=5), stats.geom(0.75, loc=-1)),
    lambda x: (st.negative_binomial(-x, total_count=2.5, seed=6), stats.nbinom(2.5, 0.75)),
])  # fmt: skip
def test_law_in_every_dtype(draw, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]  # lambdas
    """Halves round log 3 by at most 2e-3, which 20,000 draws do not see."""
    y, law = draw(torch.full((20_000,), math.log(3), dtype=dtype))
    assert y.dtype == dtype
    counts = np.bincount(y.long().numpy(), minlength=60)
    assert_frequencies(counts, law.pmf(np.arange(len(counts))))


def test_rare_counts_are_drawn_at_their_rate() -> None:
    y = st.poisson(torch.full((1_000_000,), 1e-4), seed=7)
    assert_rate(int((y > 0).sum()), y.numel(), -math.expm1(-1e-4))


def uniforms(count: int, seed: int) -> np.ndarray:
    return Noise(torch.tensor(seed)).elements(count, torch.float64).numpy()


INVERTED = [
    law
    for law in WIDE
    if law.family.total_count == math.inf or law.scipy.mean() < 16 or ("negative" not in law.name)
]


@pytest.mark.parametrize("law", INVERTED, ids=str)
def test_draws_are_scipys_quantiles_of_the_same_uniforms(law: Law) -> None:
    """One in 2e9 may differ, as `gammaincc` is exact to 4e-10."""
    u = uniforms(5000, seed=8)
    wanted = law.scipy.ppf(1 - u if "geometric" in law.name else u)
    assert np.array_equal(law.draw(5000, seed=8).numpy(), wanted)


@pytest.mark.parametrize("rate", [0.0, 1e-300, 1e-6, 0.02, 0.7, 5.0, 19.0, 60.0, 2e3, 7e5])
def test_quantiles_at_the_ends_of_the_uniforms(rate: float) -> None:
    """The search reaches 2^-53 and 1 - 2^-53: F(k - 1) < u <= F(k) by scipy's survival, too."""
    powers = 2.0 ** -np.arange(1.0, 54)
    u = np.concatenate([powers, 1 - powers])
    count = reference.poisson_quantile(torch.tensor(u), torch.tensor(rate).double()).numpy()
    law, slack = stats.poisson(rate), 4e-10
    assert (law.cdf(count) >= u * (1 - 1e-3) - slack * (u > 1e-6)).all()
    assert (law.sf(count - 1) >= (1 - u) * (1 - 1e-3) - slack * (u < 1 - 1e-6)).all()


@pytest.mark.parametrize("shape", [0.05, 0.5, 1.0, 3.3, 400.0])
def test_law_of_gamma(shape: float) -> None:
    noise = Noise(torch.tensor(9)).classes(50_000, 2 * reference.ATTEMPTS + 1, torch.float64)
    drawn = reference.gamma(shape, noise)
    assert_law(drawn.numpy(), stats.gamma(shape).cdf)


def test_a_gamma_draw_takes_the_first_attempt_that_passes() -> None:
    """Each attempt is refused with at most 5%, so that twelve are below 3e-16."""
    rows, attempts = 20_000, reference.ATTEMPTS
    noise = Noise(torch.tensor(10)).classes(rows, 2 * attempts + 1, torch.float64)
    once = noise.clone()
    once[:, 1:attempts], once[:, attempts + 1 : -1] = 0.5, 0.5  # 0.5 passes: a normal of 0
    drawn, other = reference.gamma(1.0, noise), reference.gamma(1.0, once)
    assert 0.04 < (drawn != other).double().mean() < 0.055
    assert 0.05**attempts < 3e-16


# Parameters, dtypes and errors.


@DTYPES
def test_certain_and_invalid_parameters(dtype: torch.dtype) -> None:
    def given(*values: float) -> Tensor:
        return torch.tensor(values, dtype=dtype, requires_grad=True)

    largest = min(2.0**20, torch.finfo(dtype).max / 64)
    one, three, half = {"total_count": 1}, {"total_count": 3}, {"total_count": 0.5}
    for operator, keyword, arguments, x in (
        (st.poisson, "rate", {}, given(0.0, NAN, -0.5, INFINITY, 1.01 * largest)),
        (st.poisson, "log_rate", {}, given(-INFINITY, NAN, INFINITY, 14.0)),
        (st.binomial, "probs", three, given(0.0, NAN, -0.25, 1.25)),
        (st.binomial, "logits", one, given(-INFINITY, NAN)),
        (st.geometric, "probs", {}, given(1.0, NAN, -0.5, 1.5, 0.0, -0.0)),
        (st.geometric, "logits", {}, given(INFINITY, NAN, -INFINITY, -14.0)),
        (st.negative_binomial, "probs", half, given(0.0, NAN, -0.5, 1.0, 1.5)),
        (st.negative_binomial, "logits", three, given(-INFINITY, NAN, INFINITY, 14.0)),
    ):
        for order in (1, 2, 3):
            y = operator(**{keyword: x}, **arguments, estimator=Fini(order))
            (gradient,) = torch.autograd.grad(y.sum(), x)
            assert y[0] == 0
            assert gradient[0].isfinite()
            assert y[1:].isnan().all()
            assert gradient[1:].isnan().all()
    for certain in ({"probs": given(1.0)}, {"logits": given(INFINITY)}):
        y = st.binomial(**certain, total_count=5, estimator=Fini(3))
        assert y.tolist() == [5]
        assert torch.autograd.grad(y, *certain.values())[0].isfinite()


def test_at_rate_0_the_gradient_is_the_limit() -> None:
    """(z + l) / (2 l) and 5 / 12 + ... at z = 0, whatever is above it."""
    for order, wanted in ((1, 1.0), (2, 1 / 2), (3, 5 / 12)):
        rate = torch.tensor([0.0, 1e-300, 1e-30], dtype=torch.float64, requires_grad=True)
        y = st.poisson(rate, estimator=Fini(order), seed=0)
        assert y.tolist() == [0, 0, 0]
        assert torch.autograd.grad(y.sum(), rate)[0].tolist() == pytest.approx([wanted] * 3)


def test_values_are_rounded_to_the_dtype() -> None:
    rates = torch.full((1000,), 1000.0)
    exact = st.poisson(rates, seed=0)
    halves = st.poisson(rates.bfloat16(), seed=0)
    assert torch.equal(halves, exact.bfloat16())
    assert not torch.equal(halves.float(), exact)


def test_no_count_overflows_float16() -> None:
    """The largest mean of a skewed law: its last 53-bit quantile is 37 times as large, over r."""
    for r in (0.01, 1.0, 30.0):
        largest = 1023 * min(1.0, r)
        logits = torch.full((100_000,), math.log(largest / r) - 2e-3).half()
        y = st.negative_binomial(logits, total_count=r, seed=0)
        assert y.isfinite().all()
        assert st.negative_binomial(logits[:1] + 0.1, total_count=r, seed=0).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("total", [699, 8682])
def test_a_certain_count_that_is_rounded_has_no_gradient(
    dtype: torch.dtype, order: int, total: int
) -> None:
    """bfloat16 has no 699, float16 no 8682: what is next to them has a probability of 1e-23."""
    logits = torch.tensor([54.0, 88.5], dtype=dtype, requires_grad=True)
    rule = st.estimators.Fini(order=order)
    y = st.binomial(logits, total_count=total, estimator=rule, seed=0)
    assert torch.equal(y, torch.full_like(y, total))
    gradient = torch.autograd.grad(y, logits, torch.full_like(y, 6e4))[0]
    assert gradient.abs().max() < 1e-6


def test_logits_and_probabilities_draw_the_same() -> None:
    p = torch.linspace(0.05, 0.95, 500, dtype=torch.float64)
    for draw in (
        st.geometric,
        lambda x=None, **given: st.binomial(x, total_count=9, **given),
        lambda x=None, **given: st.negative_binomial(x, total_count=1.5, **given),
    ):
        logits, probs = p.logit().requires_grad_(), p.clone().requires_grad_()
        one, other = draw(logits, seed=3), draw(probs=probs, seed=3)
        assert torch.equal(one, other)
        to_logits = torch.autograd.grad(one.sum(), logits)[0]
        to_probs = torch.autograd.grad(other.sum(), probs)[0]
        torch.testing.assert_close(to_logits, to_probs * p * (1 - p), rtol=1e-12, atol=0)


def test_strict_names_the_first_bad_element() -> None:
    with st.strict(), pytest.raises(st.ArgumentError, match=r"poisson: row \(1, 0\) has no"):
        st.poisson(torch.tensor([[1.0, 2.0], [-1.0, NAN]]))


X = torch.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.poisson(), "exactly one of log_rate and rate must be given, got neither"),
        (lambda: st.poisson(X, log_rate=X), "exactly one .* got both"),
        (lambda: st.geometric(X, probs=X), "exactly one of logits and probs .* got both"),
        (lambda: st.binomial(X, total_count=0), r"total_count must be an int in \[1, 32768\]"),
        (lambda: st.binomial(X, total_count=32769), "got 32769"),
        (lambda: st.binomial(X, total_count=2.0), "got 2.0"),
        (lambda: st.negative_binomial(X, total_count=-1.0), "total_count must be above 0"),
        (
            lambda: st.poisson(X, estimator="reinmax"),
            r"known: fini, or, in Python, the rule itself, such as Fini\(order=2\)",
        ),
    ],
)
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(st.StraightThroughError, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_a_number_of_trials_that_is_a_tensor(dtype: torch.dtype) -> None:
    x, size = torch.zeros(3, 5), torch.tensor(7, dtype=dtype)

    def draw(x: Tensor, size: Tensor | int) -> Tensor:
        return st.binomial(x, total_count=size, seed=1)

    assert torch.equal(draw(x, size), draw(x, 7))
    assert torch.equal(torch.func.vmap(lambda x: draw(x, size))(x)[0], draw(x[0], 7))
    assert st.nn.Binomial(size).total_count == 7  # type: ignore[arg-type]  # is kept as an int
    with pytest.raises(st.ArgumentError, match=r"total_count must be an int in \[1, 32768\]"):
        draw(x, size - size)
    with pytest.raises(st.ArgumentError, match="total_count must be an int"):
        draw(x, torch.tensor(7.0))
    with pytest.raises(st.ArgumentError, match="a number or a 0-d tensor of one"):
        draw(x, size[None])
    with pytest.raises(st.ArgumentError, match="one for all examples in vmap"):
        torch.func.vmap(draw)(x, size.expand(3))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="total_count must be a number and no"):
        torch.compile(draw, fullgraph=True, backend="eager")(x, size)


def test_a_number_of_failures_that_is_a_tensor() -> None:
    x, size = torch.zeros(3, 5), torch.tensor(2.0)

    def draw(x: Tensor, size: Tensor | float) -> Tensor:
        return st.negative_binomial(x, total_count=size, seed=1)

    assert torch.equal(draw(x, size), draw(x, 2.0))
    assert torch.equal(torch.func.vmap(lambda x: draw(x, size))(x)[0], draw(x[0], 2.0))
    with pytest.raises(st.ArgumentError, match="one for all examples in vmap"):
        torch.func.vmap(draw)(x, torch.ones(3))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="ArgumentError"):
        torch.compile(draw, fullgraph=True, backend="eager")(x, size)
