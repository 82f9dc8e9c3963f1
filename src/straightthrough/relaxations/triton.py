"""The softmax's gradients: the GPU kernels of softmax.py, same names, same order."""

import triton
import triton.language as tl

from ..core.gpu import implement
from ..core.native import rows, stored
from ..core.native.elementary import exp
from ..core.native.rows import over_rows
from ..core.native.stored import number
from .long_rows import of_logits_long, of_value_long


@triton.jit(do_not_specialize=["count"])
def of_value_short(
    y, grad, to, tau,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """`J(y) g / tau`."""
    _, _, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    w, g = stored.load(y, at, inside, 0.0), stored.load(grad, at, inside, 0.0)
    g = rows.relative_to(w == tl.max(w, 1)[:, None], g)
    # Values that were rounded don't sum to 1, and are taken as they are.
    value = w * (g - tl.sum(w * g, 1)[:, None]) * (1 / stored.read(tau, y))
    stored.store_gradient(to, at, value, inside)


@triton.jit(do_not_specialize=["count"])
def of_logits_short(
    x, grad, to, tau, scale,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """That times `scale` at `y = softmax(x / tau)`.

    Infinities share the whole weight, and nothing moves it. The difference of two would be NaN.
    """
    _, _, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    logits, g = stored.load(x, at, inside, -float("inf")), stored.load(grad, at, inside, 0.0)
    peak, inverse = tl.max(logits, 1), 1 / stored.read(tau, x)
    certain = peak == float("inf")
    below = (logits - tl.where(certain, 0.0, peak)[:, None]) * inverse
    on = tl.where(logits == float("inf"), 0.0, tl.where(logits == logits, -float("inf"), logits))
    below = tl.where(certain[:, None], on, below)
    times = tl.where(certain, 0.0, inverse * stored.read(scale, x))
    value = rows.pulled(exp(below), g, logits == peak[:, None], times)
    stored.store_gradient(to, at, value, inside)


def softmax_backward_of_value(y, grad, tau):
    """The gradient to what the softmax was of."""
    return over_rows(of_value_short, of_value_long, y, grad, number(tau, y))


def softmax_backward_of_logits(x, grad, tau, scale):
    """The gradient to the logits."""
    return over_rows(of_logits_short, of_logits_long, x, grad, number(tau, x), number(scale, x))


implement(softmax_backward_of_value, softmax_backward_of_logits)
