"""Gradients given the outcome, moved or numbered: the GPU kernels of gapped.py, mve_integer.py."""

import triton
import triton.language as tl

from ..core.gpu import implement
from ..core.native import rows, stored
from ..core.native.arguments import check_index
from ..core.native.elementary import exp
from ..core.native.rows import over_rows
from ..core.native.stored import number
from .long_rows import summed


@triton.jit
def not_above(most, value):
    """The least of two; NaN where the value is."""
    return tl.where(value > most, most, value)


@triton.jit
def least_weight(tau, x):
    """`1 / tau`, above 0."""
    tiny = 2.0**-1022 if x.dtype.element_ty == tl.float64 else 2.0**-126
    return tl.maximum(1 / stored.read(tau, x), tiny)


@triton.jit(do_not_specialize=["count"])
def gapped_short(
    x, grad, to, index, tau, gap,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """`J(softmax(t / tau)) g / tau`, the outcome leading by `gap`."""
    row, j, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    logits, g = stored.load(x, at, inside, -float("inf")), stored.load(grad, at, inside, 0.0)
    chosen = tl.maximum(tl.load(index + row, row < count, 0), 0)
    g -= rows.at_class(g, j, chosen)[:, None]
    unordered = tl.sum((logits != logits).to(tl.int32), 1) > 0
    peak = tl.where(unordered, float("nan"), tl.max(logits, 1))
    below = not_above(-stored.read(gap, x), logits - peak[:, None])
    inverse = 1 / stored.read(tau, x)
    w = tl.where(j[None, :] == chosen[:, None], 1.0, exp(below * inverse))
    total = tl.sum(w, 1)
    mean = tl.sum(w * g, 1) / total
    stored.store_gradient(to, at, w * (inverse / total)[:, None] * (g - mean[:, None]), inside)


@triton.jit
def gapped_long(
    x, grad, to, index, tau, gap, vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """As `gapped_short`."""
    classes, inverse = vectors * VECTOR, 1 / stored.read(tau, x)
    most, row = -stored.read(gap, x), tl.program_id(0).to(tl.int64)
    chosen = tl.minimum(tl.maximum(tl.load(index + row), 0), classes - 1).to(tl.int32)
    grad_chosen = stored.widened(tl.load(grad + row * classes + chosen))
    peak, weight = summed(x, 1.0, classes, WIDTH)
    total, weighted, unordered = rows.nothing(x), rows.nothing(x), weight == 0
    for last in tl.static_range(2):
        for first in range(0, classes, WIDTH):
            j, inside, at = rows.block(first, classes, WIDTH)
            logits = stored.load(x, at, inside, -float("inf"))
            g = stored.load(grad, at, inside, grad_chosen) - grad_chosen
            w = tl.where(j == chosen, 1.0, exp(not_above(most, logits - peak) * inverse))
            if last:
                value = w * (inverse / total) * (g - weighted / total)
                stored.store_gradient(to, at, value, inside)
            else:
                total += tl.sum(w, 0)
                weighted += tl.sum(w * g, 0)
                unordered |= tl.sum((logits != logits).to(tl.int32), 0) > 0
        total = tl.where(unordered, float("nan"), total)


@triton.jit(do_not_specialize=["count"])
def mve_integer_short(
    x, grad, to, index, tau,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """`p (a + (y - m) (a^2 - v) / (1 / tau + 2 v)) s`; of the gradient two classes are read."""
    row, j, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    classes, there = vectors * VECTOR, row < count
    logits = stored.load(x, at, inside, -float("inf"))
    chosen = tl.maximum(tl.load(index + row, there, 0), 0)
    start = row // inner * inner * classes + row % inner
    second = start + inner * tl.minimum(classes - 1, 1)
    slope = stored.load(grad, second, there, 0.0) - stored.load(grad, start, there, 0.0)
    w = exp(logits - tl.max(logits, 1)[:, None])
    total = tl.sum(w, 1)
    number = (j[None, :] - chosen[:, None]).to(w.dtype)
    mean = tl.sum(w * number, 1) / total
    away = number - mean[:, None]
    variance = tl.sum(w * away * away, 1) / total
    skew = mean / (least_weight(tau, x) + 2 * variance)
    pull = away - skew[:, None] * (away * away - variance[:, None])
    stored.store_gradient(to, at, w * (slope / total)[:, None] * pull, inside)


@triton.jit
def mve_integer_long(
    x, grad, to, index, tau, vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """As `mve_integer_short`."""
    classes, row = vectors * VECTOR, tl.program_id(0).to(tl.int64)
    chosen = tl.maximum(tl.load(index + row), 0)
    start = grad + row * classes
    slope = stored.widened(tl.load(start + 1)) - stored.widened(tl.load(start))
    peak, total = summed(x, 1.0, classes, WIDTH)
    mean, variance, skew = rows.nothing(x), rows.nothing(x), rows.nothing(x)
    for step in tl.static_range(3):
        for first in range(0, classes, WIDTH):
            j, inside, at = rows.block(first, classes, WIDTH)
            share = exp(stored.load(x, at, inside, -float("inf")) - peak) / total
            number = (j - chosen).to(share.dtype)
            if step == 0:
                mean += tl.sum(share * number, 0)
            elif step == 1:
                variance += tl.sum(share * (number - mean) * (number - mean), 0)
            else:
                away = number - mean
                pull = away - skew * (away * away - variance)
                stored.store_gradient(to, at, share * slope * pull, inside)
        skew = mean / (least_weight(tau, x) + 2 * variance)


def gapped(logits, index, grad, tau, gap):
    """The gradient to the logits."""
    check_index(index, logits)
    given = index.contiguous(), number(tau, logits), number(gap, logits)
    return over_rows(gapped_short, gapped_long, logits, grad, *given)


def mve_integer(logits, index, grad, tau):
    """The gradient to the logits."""
    check_index(index, logits)
    given = index.contiguous(), number(tau, logits)
    return over_rows(mve_integer_short, mve_integer_long, logits, grad, *given)


implement(gapped, mve_integer)
