"""Draws of counts by kernels: those of the reference, and far from 0 those of scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from straightthrough.core import kernels
from straightthrough.core.noise import Noise
from straightthrough.ops.counts import reference

pytestmark = pytest.mark.kernels

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NOISE = Noise(torch.tensor(0x123456789ABCDEF), 5)
LARGEST = 2.0**20
RARELY = 1e-3  # a uniform lies within rounding of the distribution function


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def assert_draws_agree(operator, x, *arguments):
    assert kernels.has_kernel(x, name=operator.__name__)
    given = operator(x, *arguments, NOISE)
    wanted = operator.__wrapped__(x, *arguments, NOISE)
    assert given.dtype == x.dtype
    assert torch.equal(given.isnan(), wanted.isnan())
    differs = given.nan_to_num(-1) != wanted.nan_to_num(-1)
    assert differs.double().mean() <= RARELY
    # By one, or by what a dtype has between its numbers there.
    allowed = 1 + torch.finfo(x.dtype).eps * wanted.abs()
    assert ((given - wanted).abs() <= allowed)[differs].all()


SPECIAL = [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, 2.0, -1.0, 14.0, -14.0, 1e-30, 0.5]


def parameters(low, high, dtype):
    return torch.cat([torch.tensor(SPECIAL), torch.linspace(low, high, 1500)]).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestAgreementOfCounts:
    def test_poisson(self, dtype):
        for low, high in ((0, 3), (25, 40), (60, 1000)):
            assert_draws_agree(reference.poisson, parameters(low, high, dtype), True, LARGEST)
        assert_draws_agree(reference.poisson, parameters(-9, 6, dtype), False, 1000.0)

    @pytest.mark.parametrize("trials", [1, 7, 300, 32768])
    def test_binomial(self, dtype, trials):
        assert_draws_agree(reference.binomial, parameters(0, 1, dtype), True, trials)
        assert_draws_agree(reference.binomial, parameters(-12, 12, dtype), False, trials)

    def test_geometric(self, dtype):
        assert_draws_agree(reference.geometric, parameters(0, 1, dtype), True, 1000.0)
        assert_draws_agree(reference.geometric, parameters(-6, 9, dtype), False, LARGEST)

    @pytest.mark.parametrize("total_count", [0.05, 0.7, 2.5, 16.0, 40.0, 1e4])
    def test_negative_binomial(self, dtype, total_count):
        given = (total_count, reference.nearest(total_count), 1000.0)
        assert_draws_agree(reference.negative_binomial, parameters(0, 1, dtype), True, *given)
        assert_draws_agree(reference.negative_binomial, parameters(-12, 6, dtype), False, *given)

    @pytest.mark.parametrize("order", [1, 2, 3])
    @pytest.mark.parametrize("direct", [False, True])
    @pytest.mark.parametrize(
        "family", [(torch.inf, False), (-7, False), (-1, False), (1, True), (2.5, False)]
    )
    def test_gradients(self, dtype, order, direct, family):
        size, of_failure = family
        x = parameters(0.05, 0.95, dtype) if direct else parameters(-4, 4, dtype)
        moments = reference.moments(x.double(), size, direct, of_failure)
        mean, dispersion, to_mean = (torch.as_tensor(each).double().abs() for each in moments)
        count = (torch.arange(len(x)) % 7).to(dtype)
        count = reference.within(mean, LARGEST, count).to(dtype)
        grad = torch.linspace(1, 2, len(x)).to(dtype)
        parameter = (size, direct, of_failure, order)
        given = reference.fini(x, count, grad, *parameter)
        wide = (each.double() for each in (x, count, grad))
        wanted = reference.fini.__wrapped__(*wide, *parameter)
        assert given.dtype == dtype
        assert torch.equal(given.isnan(), wanted.isnan())
        # Of the largest of the terms, which cancel.
        z = count.double()
        ratio, other = z / mean, (1 + (z / size).abs()) / dispersion
        terms = to_mean * (1 + ratio + other + (order == 3) * (ratio + other + 1).square())
        within = 16 * max(torch.finfo(dtype).eps, 2.0**-52) * terms
        usual = terms.isfinite() & (mean > 1e-3) & (dispersion > 1e-3)
        assert ((given.double() - wanted).abs() <= within)[usual].all()
        assert usual.sum() > 1000


@pytest.mark.parametrize("rate", [33.0, 400.0, 1e5, LARGEST])
def test_counts_far_from_0_are_scipys_quantiles_to_1e_10(rate):
    u = NOISE.elements(20_000, torch.float64).numpy()
    x = torch.full((20_000,), rate, dtype=torch.float64)
    drawn = reference.poisson(x, True, LARGEST, NOISE).numpy()
    law = stats.poisson(rate)
    assert (law.cdf(drawn) >= u - 1e-10).all()
    assert (law.cdf(drawn - 1) <= u + 1e-10).all()


@pytest.mark.parametrize(("trials", "p"), [(100, 0.5), (5000, 0.01), (32768, 0.37), (32768, 0.97)])
def test_binomial_counts_far_from_0_are_scipys_quantiles_to_1e_10(trials, p):
    u = NOISE.elements(20_000, torch.float64).numpy()
    x = torch.full((20_000,), p, dtype=torch.float64)
    drawn = reference.binomial(x, True, trials, NOISE).numpy()
    law = stats.binom(trials, p)
    assert (law.cdf(drawn) >= u - 1e-10).all()
    assert (law.cdf(drawn - 1) <= u + 1e-10).all()
    assert len(np.unique(drawn)) > 10
