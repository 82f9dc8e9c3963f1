"""Elementary functions as the kernels for GPUs want them."""

import triton
import triton.language as tl

LOG2_E, LOG2_E_REST = tl.constexpr(1.44269502162933349609375), tl.constexpr(1.925963033500011e-08)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def rough_exp(x):
    """The exponential of x <= 0, in float32 to within 2^-22 + 2^-24 |x| of itself."""
    return tl.exp(x) if x.dtype == tl.float64 else tl.exp2(x * LOG2_E)


@triton.jit
def exp(x):
    """The exponential, in float32 to within 2^-22 of itself: what rounding took is put back."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    whole = x * LOG2_E
    rest = tl.fma(x, LOG2_E, -whole) + x * LOG2_E_REST
    power = tl.exp2(whole)
    return tl.where(power > 0, power + power * (rest * LN_2), power)  # rest of infinity is NaN


@triton.jit
def log1m(u):
    """log(1 - u) for u in (0, 1), exact near 0 too: what rounding took from 1 - u is put back."""
    w = 1 - u
    lost = u - (1 - w)
    return tl.log(w) - (lost + lost * u)


@triton.jit
def sigmoid(x):
    """The sigmoid and its derivative."""
    e = exp(-tl.abs(x))
    whole = 1 / (1 + e)
    return tl.where(x < 0, e, 1.0) * whole, e * whole * whole


@triton.jit
def at_most(largest, value):
    """The value, infinities as the largest number of their sign."""
    return tl.where(tl.abs(value) == float("inf"), tl.where(value > 0, largest, -largest), value)


@triton.jit
def quotient(x, y):
    """`x / y`, rounded once."""
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y + tl.zeros_like(x))


@triton.jit
def nearest(v):
    """The nearest whole number, half to even: what is added leaves no place for a fraction."""
    whole: tl.constexpr = 2.0**52 if v.dtype == tl.float64 else 2.0**23
    size = tl.abs(v)
    near = (size + whole) - whole
    return tl.where(size < whole, tl.where(v < 0, -near, near), v)


@triton.jit
def bounded(value, source):
    """A value at the largest number of its sign where it is infinite, and what it is of is not."""
    double: tl.constexpr = value.dtype == tl.float64
    largest: tl.constexpr = 1.7976931348623157e308 if double else 3.4028234663852886e38
    return tl.where(tl.abs(source) < float("inf"), at_most(largest, value), value)
