"""exp and log as the kernels for GPUs want them."""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def exp(x):
    """The exponential, in float32 the hardware's: within 2^-22 + 2^-24 |x| of itself."""
    return tl.exp(x) if x.dtype == tl.float64 else tl.exp2(x * LOG2_E)


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
