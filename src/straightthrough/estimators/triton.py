"""Gradients given the outcome: the GPU kernels of straight_through.py and reinmax.py."""

import torch
import triton
import triton.language as tl

from ..core.gpu import implement
from ..core.native import rows, stored
from ..core.native.arguments import check_index
from ..core.native.elementary import exp
from ..core.native.rows import over_rows
from ..core.native.stored import number


@triton.jit
def drawn(x, index, grad, count, row, j, inside, at):
    """A tile with its outcomes: logits less the largest, the gradient less its entry there."""
    logits = stored.load(x, at, inside, -float("inf"))
    g = stored.load(grad, at, inside, 0.0)
    chosen = tl.maximum(tl.load(index + row, row < count, 0), 0)
    return logits - tl.max(logits, 1)[:, None], g - rows.at_class(g, j, chosen)[:, None], chosen


@triton.jit
def pulled(w, g, below, times):
    """`J(y) g` times a factor, y in proportion to `w`.

    J(y) sends constants to 0: relative to g of the likeliest class a row that is all but certain
    loses no digits.
    """
    g -= tl.max(tl.where(below == 0, g, -float("inf")), 1)[:, None]
    total = tl.sum(w, 1)
    mean = tl.sum(w * g, 1) / total
    return w * (times / total)[:, None] * (g - mean[:, None])


@triton.jit(do_not_specialize=["count"])
def straight_through_short(
    x, grad, to, tau,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """`J(p_tau) g / tau`."""
    _, _, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    logits = stored.load(x, at, inside, -float("inf"))
    below, g = logits - tl.max(logits, 1)[:, None], stored.load(grad, at, inside, 0.0)
    inverse = 1 / stored.read(tau, x)
    value = pulled(exp(below * inverse), g, below, inverse)
    stored.store_gradient(to, at, value, inside)


@triton.jit(do_not_specialize=["count"])
def reinmax_short(
    x, grad, to, index, tau, CLOSED: tl.constexpr,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """`2 J((p_tau + D) / 2) g - J(p) g / 2`; the closed form where tau is 1."""
    row, j, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    below, g, chosen = drawn(x, index, grad, count, row, j, inside, at)
    outcome = j[None, :] == chosen[:, None]
    w = exp(below)
    factor = 0.5 / tl.sum(w, 1)
    others = w * g
    weighted = tl.sum(others, 1)
    if CLOSED:
        value = tl.where(outcome, -weighted[:, None], others) * factor[:, None]
    else:
        h = exp(below * (1 / stored.read(tau, x)))
        warm = 0.5 / tl.sum(h, 1)
        middle = h * warm[:, None] + tl.where(outcome, 0.5, 0.0)
        middle_mean = tl.sum(h * g, 1) * warm
        mean = 2 * weighted * factor
        value = 2 * middle * (g - middle_mean[:, None])
        value -= w * factor[:, None] * (g - mean[:, None])
    stored.store_gradient(to, at, value, inside)


def straight_through(logits, index, grad, tau):
    """The gradient to the logits."""
    check_index(index, logits)
    return over_rows(straight_through_short, logits, grad, number(tau, logits))


def reinmax(logits, index, grad, tau):
    """The gradient to the logits."""
    check_index(index, logits)
    closed = not isinstance(tau, torch.Tensor) and tau == 1
    outcome, tau = index.contiguous(), number(tau, logits)
    return over_rows(reinmax_short, logits, grad, outcome, tau, closed)


implement(straight_through, reinmax)
