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
