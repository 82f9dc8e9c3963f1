"""The GPU kernels of rows too long for a tile, block by block; triton.py launches them."""

import triton
import triton.language as tl

from ..core.native import philox, rows, stored
from ..core.native.elementary import exp
from ..relaxations.long_rows import pull_long


@triton.jit
def power(ratio, tau, POWER: tl.constexpr):
    """`ratio^(1 / tau)`, a whole power where it is known to be one."""
    if POWER == 0:
        ratio = exp(tl.log(ratio) / tau)
    elif POWER == 2:
        ratio *= ratio
    return ratio


@triton.jit
def summed(x, inverse, classes, WIDTH: tl.constexpr):
    """The largest logit of a row, and the sum of the weights beside it."""
    peak, total = rows.least(x), rows.nothing(x)
    for first in range(0, classes, WIDTH):
        _, inside, at = rows.block(first, classes, WIDTH)
        logits = stored.load(x, at, inside, -float("inf"))
        before, peak = peak, tl.maximum(peak, tl.max(logits, 0))
        total = total * exp((before - peak) * inverse) + tl.sum(exp((logits - peak) * inverse), 0)
    return peak, total


@triton.jit
def straight_through_long(x, grad, to, tau, vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr):
    """As `straight_through_short`."""
    pull_long(x, grad, to, 1 / stored.read(tau, x), 1.0, True, False, vectors * VECTOR, WIDTH)


@triton.jit
def outcome_of(index, grad, classes):
    """The outcome of this program's row, and the gradient there."""
    row = tl.program_id(0).to(tl.int64)
    chosen = tl.minimum(tl.maximum(tl.load(index + row), 0), classes - 1).to(tl.int32)
    return chosen, stored.widened(tl.load(grad + row * classes + chosen))


@triton.jit
def darn_long(x, grad, to, index, vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr):
    """As `darn_short`."""
    classes = vectors * VECTOR
    chosen, grad_chosen = outcome_of(index, grad, classes)
    peak, total = summed(x, 1.0, classes, WIDTH)
    others, weighted = rows.nothing(x), rows.nothing(x)
    for first in range(0, classes, WIDTH):
        j, inside, at = rows.block(first, classes, WIDTH)
        w = exp(stored.load(x, at, inside, -float("inf")) - peak)
        g = stored.load(grad, at, inside, grad_chosen) - grad_chosen
        others += tl.sum(tl.where(j == chosen, 0.0, w), 0)
        weighted += tl.sum(w * g, 0)
    times = weighted / total / total
    for first in range(0, classes, WIDTH):
        j, inside, at = rows.block(first, classes, WIDTH)
        w = exp(stored.load(x, at, inside, -float("inf")) - peak)
        stored.store_gradient(to, at, tl.where(j == chosen, -others, w) * times, inside)


@triton.jit
def reinmax_long(
    x, grad, to, index, tau, CLOSED: tl.constexpr,
    vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """As `reinmax_short`."""
    classes, inverse = vectors * VECTOR, 1 / stored.read(tau, x)
    row = tl.program_id(0).to(tl.int64)
    chosen, grad_chosen = outcome_of(index, grad, classes)
    peak, total = summed(x, 1.0, classes, WIDTH)
    factor, weighted = 0.5 / total, rows.nothing(x)
    warm_total, warm_weighted = rows.nothing(x), rows.nothing(x)
    if not CLOSED:
        for first in range(0, classes, WIDTH):
            _, inside, at = rows.block(first, classes, WIDTH)
            below = stored.load(x, at, inside, -float("inf")) - peak
            g = stored.load(grad, at, inside, grad_chosen) - grad_chosen
            w, h = exp(below), exp(below * inverse)
            weighted += tl.sum(w * g, 0)
            warm_total += tl.sum(h, 0)
            warm_weighted += tl.sum(h * g, 0)
    mean, warm = weighted / total, 0.5 / warm_total
    middle_mean = warm_weighted * warm
    for first in range(0, classes, WIDTH):
        j, inside, at = rows.block(first, classes, WIDTH)
        below = stored.load(x, at, inside, -float("inf")) - peak
        g = stored.load(grad, at, inside, grad_chosen) - grad_chosen
        value = exp(below) * factor
        if CLOSED:
            value *= g
            weighted += tl.sum(value, 0)
        else:
            middle = exp(below * inverse) * warm + tl.where(j == chosen, 0.5, 0.0)
            value = 2 * middle * (g - middle_mean) - value * (g - mean)
        stored.store_gradient(to, at, value, inside & ((j != chosen) | (not CLOSED)))
    if CLOSED:
        stored.store_gradient(to, row * classes + chosen, -weighted, True)


@triton.jit(do_not_specialize=["offset"])
def gumbel_st_long(
    x, grad, to, index, tau, samples, seed, offset: tl.int64, POWER: tl.constexpr,
    vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """As `gumbel_st_short`; what the samples give is summed in `to`."""
    classes, tau = vectors * VECTOR, stored.read(tau, x)
    double: tl.constexpr = x.dtype.element_ty == tl.float64
    row, key = tl.program_id(0).to(tl.int64), tl.load(seed)
    chosen, grad_chosen = outcome_of(index, grad, classes)
    peak, total = summed(x, 1.0, classes, WIDTH)
    for k in range(samples):
        tag, own = philox.conditional(k), chosen // 4 * 4
        around = philox.exponentials(key, offset + row, own, tag, 4, double)
        least = tl.sum(tl.where(own + tl.arange(0, 4) == chosen, around, 0.0), 0) / total
        sum_y, weighted = rows.nothing(x), rows.nothing(x)
        for last in tl.static_range(2):
            mean = weighted / sum_y
            for first in range(0, classes, WIDTH):
                j, inside, at = rows.block(first, classes, WIDTH)
                part = least * exp(stored.load(x, at, inside, -float("inf")) - peak)
                g = stored.load(grad, at, inside, grad_chosen) - grad_chosen
                noise = philox.exponentials(key, offset + row, first, tag, WIDTH, double)
                y = power(part / (part + noise), tau, POWER)
                y = tl.where(j == chosen, 1.0, y)
                if last:
                    value = y * (1 / (sum_y * tau * samples)) * (g - mean)
                    if k > 0:
                        value += stored.load(to, at, inside, 0.0)
                    stored.store_gradient(to, at, value, inside)
                else:
                    y = tl.where(inside, y, 0.0)
                    sum_y += tl.sum(y, 0)
                    weighted += tl.sum(y * g, 0)
