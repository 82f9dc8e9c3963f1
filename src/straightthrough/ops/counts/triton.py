"""Counts by inversion of one uniform each, in double precision: the GPU kernels of reference.py.

Same names, same order.
"""

import math

import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import elements, philox, stored
from ...core.native.arguments import check_floating, check_noise, refuse
from ...core.native.elementary import log1m
from ...core.native.elements import in_order, launch
from ...core.native.stored import double
from .quantile import FAR, any_of, from_zero, gamma, near_mean, poisson_quantile

LARGEST_POWER = tl.constexpr(700.0)
"""Of e that is finite in double precision."""

PARTS = 16
"""Of a tile of elements: a warp then has two a lane, and waits for its own slowest alone."""

# ---- in kernels ----


@triton.jit
def read(x, seed, offset, count, ALIGNED: tl.constexpr, SIZE: tl.constexpr):
    """A tile: where it is, its parameters in double precision, and a uniform each."""
    at, inside = elements.tile(count, SIZE)
    v = stored.load(x, at, inside, 0.0).to(tl.float64)
    return at, inside, v, elements.uniforms(seed, offset, philox.DRAW, True, ALIGNED, SIZE)


@triton.jit
def store(y, at, inside, drawn, mean, largest):
    """Store counts, NaN where the mean is none or above `largest`."""
    value = tl.where((mean >= 0) & (mean <= largest), drawn, float("nan"))
    if y.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    stored.store(y, at, value, inside)


@triton.jit
def odds_of(logit):
    """The exponential of a logit, finite, NaN where that is."""
    return tl.exp(tl.where(logit > LARGEST_POWER, LARGEST_POWER, logit))


@triton.jit(do_not_specialize=["largest", "offset"])
def poisson_kernel(
    x, y, largest, seed, offset: tl.int64, count,
    DIRECT: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Poisson counts."""
    at, inside, v, u = read(x, seed, offset, count, ALIGNED, SIZE)
    rate = v if DIRECT else odds_of(v)
    store(y, at, inside, poisson_quantile(u, rate), rate, stored.read_double(largest))


@triton.jit(do_not_specialize=["trials", "offset"])
def binomial_kernel(
    x, y, trials, seed, offset: tl.int64, count,
    DIRECT: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Binomial counts, of what is rarer, success or failure."""
    at, inside, v, u = read(x, seed, offset, count, ALIGNED, SIZE)
    n = trials.to(tl.float64)
    often = v > (0.5 if DIRECT else 0.0)
    if DIRECT:
        p = tl.where(often, 1 - v, v)
    else:
        odds = odds_of(-tl.abs(v))
        p = odds / (1 + odds)
    u = tl.where(often, 1 - u, u)
    log_none = n * log1m(p)
    far = log_none < -FAR
    drawn = from_zero(tl.where(far, 0.0, tl.exp(log_none)), p / (1 - p), u, n, -1.0)
    if any_of(far):
        drawn = tl.where(far, near_mean(far, p, u, n, True), drawn)
    drawn = tl.where(often, n - drawn, drawn)
    if DIRECT:
        p = v
    store(y, at, inside, drawn, n * p, n)


@triton.jit(do_not_specialize=["largest", "offset"])
def geometric_kernel(
    x, y, largest, seed, offset: tl.int64, count,
    DIRECT: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Failures before the first success."""
    at, inside, v, u = read(x, seed, offset, count, ALIGNED, SIZE)
    if DIRECT:
        log_failure, mean = log1m(v), (1 - v) / v
    else:
        e = odds_of(-tl.abs(v))
        log_failure, mean = log1m(e / (1 + e)) - tl.where(v > 0, v, 0.0), odds_of(-v)
    drawn = tl.floor(tl.log(u) / log_failure)
    store(y, at, inside, tl.where(mean > 0, drawn, 0.0), mean, stored.read_double(largest))


@triton.jit(do_not_specialize=["total_count", "limit", "largest", "offset"])
def negative_binomial_kernel(
    x, y, total_count, limit, largest, seed, offset: tl.int64, count,
    DIRECT: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Successes before `total_count` failures: from 0, or Poisson counts at drawn rates."""
    at, inside, v, u = read(x, seed, offset, count, ALIGNED, SIZE)
    total, limit = stored.read_double(total_count), stored.read_double(limit)
    largest = stored.read_double(largest)
    if DIRECT:
        p, odds = v, v / (1 - v)
    else:
        e = odds_of(-tl.abs(v))
        p, odds = tl.where(v < 0, e, 1.0) / (1 + e), odds_of(v)
    few = tl.where(v <= limit, p, 0.0)
    drawn = from_zero(tl.exp(total * log1m(few)), few, u, total, 1.0)
    far = (v > limit) & (total * odds <= largest)
    if any_of(far):
        rate = odds * gamma(total, tl.load(seed), offset + at)
        drawn = tl.where(far, poisson_quantile(u, tl.where(far, rate, 0.0)), drawn)
    store(y, at, inside, drawn, total * odds, largest)


# ---- operators ----


def poisson(x, direct, largest, seed, offset):
    """Poisson counts."""
    return drawn(poisson_kernel, x, direct, seed, offset, double(largest, x))


def binomial(x, direct, trials, seed, offset):
    """Binomial counts."""
    limit = 1 << 15
    if not 1 <= trials <= limit:
        refuse("trials must lie in [1, ", limit, "], got ", trials)
    return drawn(binomial_kernel, x, direct, seed, offset, trials)


def geometric(x, direct, largest, seed, offset):
    """Failures before the first success."""
    return drawn(geometric_kernel, x, direct, seed, offset, double(largest, x))


def negative_binomial(x, direct, total_count, near, largest, seed, offset):
    """Successes before `total_count` failures."""
    limit = 1 / (1 + math.exp(-near)) if direct else near
    numbers = (double(number, x) for number in (total_count, limit, largest))
    return drawn(negative_binomial_kernel, x, direct, seed, offset, *numbers)


def drawn(kernel, x, direct, seed, offset, *numbers):
    """What a kernel draws for every element."""
    check_floating("x", x)
    check_noise(seed, offset, x)
    x, y = in_order(x)
    compiled_for = {"DIRECT": direct, "ALIGNED": offset % 8 == 0}
    launch(kernel, x, x, y, *numbers, seed, offset, parts=PARTS, **compiled_for)
    return y


implement(poisson, binomial, geometric, negative_binomial)
