"""Gradients to the parameter of a count: the GPU kernel of `fini` in reference.py."""

import math

import torch
import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import elements, stored
from ...core.native.arguments import check_alike, check_floating, refuse
from ...core.native.elementary import exp
from ...core.native.elements import in_order, launch
from ...core.native.stored import number

POISSON, BINOMIAL, NEGATIVE_BINOMIAL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def finite_exp(x):
    """The exponential, finite; NaN where x is."""
    most: tl.constexpr = 700.0 if x.dtype == tl.float64 else 88.0
    return exp(tl.where(x > most, most, x))


@triton.jit
def moments(
    x, size, FAMILY: tl.constexpr, DIRECT: tl.constexpr, OF_FAILURE: tl.constexpr
):  # fmt: skip
    """The mean m at a parameter, `1 + m / size`, and the derivative of m."""
    one = tl.full(x.shape, 1.0, x.dtype)
    if FAMILY == POISSON:
        mean = x if DIRECT else finite_exp(x)
        dispersion, slope = one, one if DIRECT else mean
    elif FAMILY == BINOMIAL:
        p = x if DIRECT else 1 / (1 + finite_exp(-x))
        dispersion = 1 - x if DIRECT else 1 / (1 + finite_exp(x))
        mean = -size * p
        slope = -size * one if DIRECT else mean * dispersion
    elif DIRECT:
        p, q = (1 - x, x) if OF_FAILURE else (x, 1 - x)
        mean, dispersion, slope = size * p / q, 1 / q, size / (q * q)
    else:
        odds = finite_exp(-x if OF_FAILURE else x)
        mean, dispersion, slope = size * odds, 1 + odds, size * odds
    if OF_FAILURE:
        slope = -slope
    return mean, dispersion, slope


@triton.jit
def weight(mean, dispersion, count, size, ORDER: tl.constexpr, ONE: tl.constexpr):
    """As in fini.py; a single trial has no third order."""
    m, d = tl.where(mean == 0, 1.0, mean), tl.where(dispersion == 0, 1.0, dispersion)
    ratio, other = count / m, (1 + count / size) / d
    value = 0.5 * (ratio + other)
    if ORDER == 3 and not ONE:
        following = (1 + (count + 1) / size) / d
        third = count * (count - 1) / m / m - 2 * ratio * other
        value -= (third + other * following) / (12 * (1 + 1 / size))
    return value


@triton.jit
def fini_kernel(
    x, counts, grad, to, size, every, count, FAMILY: tl.constexpr, DIRECT: tl.constexpr,
    OF_FAILURE: tl.constexpr, ORDER: tl.constexpr, ONE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The gradient, NaN where there is no count."""
    at, inside = elements.tile(count, SIZE)
    v, z = stored.load(x, at, inside, 0.5), stored.load(counts, at, inside, 0.0)
    size = stored.read(size, x)
    mean, dispersion, slope = moments(v, size, FAMILY, DIRECT, OF_FAILURE)
    value = stored.load(grad, at, inside, 0.0) * slope
    if ORDER > 1:
        if FAMILY == BINOMIAL:  # half precision may round the count of all trials
            z = tl.where(z == stored.read(every, x), -size, z)
        value *= weight(mean, dispersion, z, size, ORDER, ONE)
    stored.store_gradient(to, at, tl.where(z == z, value, z), inside)


def fini(x, count, grad, size, direct, of_failure, order):
    """The gradient to the parameter."""
    check_floating("x", x)
    check_alike("count", count, x)
    check_alike("grad", grad, x)
    if not 1 <= order <= 3:
        refuse("order must lie in [1, 3], got ", order)
    (x, to), size = in_order(x), float(size)
    family = 0 if math.isinf(size) else 1 if size < 0 else 2
    rounded = torch.tensor(-size, dtype=x.dtype).item()
    numbers = number(size, x), number(rounded, x)
    compiled_for = {"FAMILY": family, "DIRECT": direct, "OF_FAILURE": of_failure}
    compiled_for |= {"ORDER": order, "ONE": size == -1}
    launch(fini_kernel, x, x, count.contiguous(), grad.contiguous(), to, *numbers, **compiled_for)
    return to


implement(fini)
