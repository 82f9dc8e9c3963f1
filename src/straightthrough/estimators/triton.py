"""Gradients given the outcome, one kernel an estimator, for GPUs: same names, same order."""

import torch
import triton
import triton.language as tl

from ..core.gpu import implement
from ..core.native import philox, rows, stored
from ..core.native.arguments import check_index, check_noise, check_samples
from ..core.native.elementary import exp
from ..core.native.rows import fits_a_tile, over_rows
from ..core.native.stored import known_power, number
from ..core.precision import compute_dtype, narrowed
from .long_rows import darn_long, gumbel_st_long, power, reinmax_long, straight_through_long


@triton.jit
def drawn(x, index, grad, row, inside, at, count, vectors, inner, VECTOR: tl.constexpr):
    """A tile with its outcomes: logits less the largest, the gradient less its entry there.

    The entry is read again: to look for it in the tile takes longer, and registers.
    """
    logits = stored.load(x, at, inside, -float("inf"))
    g = stored.load(grad, at, inside, 0.0)
    chosen = tl.maximum(tl.load(index + row, row < count, 0), 0)
    there, known = rows.first_class(row, vectors, inner, VECTOR) + chosen * inner, row < count
    entry = stored.load(grad, there, known & (chosen < vectors * VECTOR), 0.0)
    return logits - tl.max(logits, 1)[:, None], g - entry[:, None], chosen


@triton.jit
def straight_through_of(logits, g, j, chosen, tau, CLOSED: tl.constexpr):
    """`J(p_tau) g / tau` of a tile."""
    peak, inverse = tl.max(logits, 1)[:, None], 1 / tau
    return rows.pulled(exp((logits - peak) * inverse), g, logits == peak, inverse)


@triton.jit
def reinmax_relative(below, g, j, chosen, tau, CLOSED: tl.constexpr):
    """`2 J((p_tau + D) / 2) g - J(p) g / 2` of a tile; the closed form where tau is 1."""
    w = exp(below)
    factor = 0.5 / tl.sum(w, 1)
    others = w * g
    weighted = tl.sum(others, 1)
    outcome = j[None, :] == chosen[:, None]
    if CLOSED:
        value = tl.where(outcome, -weighted[:, None], others) * factor[:, None]
    else:
        h = exp(below * (1 / tau))
        warm = 0.5 / tl.sum(h, 1)
        middle = h * warm[:, None] + tl.where(outcome, 0.5, 0.0)
        middle_mean = tl.sum(h * g, 1) * warm
        mean = 2 * weighted * factor
        value = 2 * middle * (g - middle_mean[:, None])
        value -= w * factor[:, None] * (g - mean[:, None])
    return value


@triton.jit
def reinmax_of(logits, g, j, chosen, tau, CLOSED: tl.constexpr):
    """The same of a gradient as it is given, not relative to its entry at the outcome."""
    below, g = logits - tl.max(logits, 1)[:, None], g - rows.at_class(g, j, chosen)[:, None]
    return reinmax_relative(below, g, j, chosen, tau, CLOSED)


@triton.jit(do_not_specialize=["count"])
def straight_through_short(
    x, grad, to, tau,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of rows."""
    _, j, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    logits, g = stored.load(x, at, inside, -float("inf")), stored.load(grad, at, inside, 0.0)
    value = straight_through_of(logits, g, j, 0, stored.read(tau, x), False)
    stored.store_gradient(to, at, value, inside)


@triton.jit(do_not_specialize=["count"])
def darn_short(
    x, grad, to, index,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of rows; 1 - p is what the others weigh."""
    row, j, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    below, g, chosen = drawn(x, index, grad, row, inside, at, count, vectors, inner, VECTOR)
    outcome, w = j[None, :] == chosen[:, None], exp(below)
    others, inverse = tl.sum(tl.where(outcome, 0.0, w), 1), 1 / tl.sum(w, 1)
    mean = tl.sum(w * g, 1) * inverse
    value = tl.where(outcome, -others[:, None], w) * (mean * inverse)[:, None]
    stored.store_gradient(to, at, value, inside)


@triton.jit(do_not_specialize=["count"])
def reinmax_short(
    x, grad, to, index, tau, CLOSED: tl.constexpr,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of rows."""
    row, j, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    below, g, chosen = drawn(x, index, grad, row, inside, at, count, vectors, inner, VECTOR)
    value = reinmax_relative(below, g, j, chosen, stored.read(tau, x), CLOSED)
    stored.store_gradient(to, at, value, inside)


@triton.jit(do_not_specialize=["count", "offset"])
def gumbel_st_short(
    x, grad, to, index, tau, samples, seed, offset: tl.int64, POWER: tl.constexpr,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The mean over conditional draws of `J(y) g / tau`.

    Relative to the outcome's weight of 1, class j weighs (E_x p_j / (E_j + E_x p_j))^(1 / tau).
    """
    row, j, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    below, g, chosen = drawn(x, index, grad, row, inside, at, count, vectors, inner, VECTOR)
    tau, key, w = stored.read(tau, x), tl.load(seed), exp(below)
    total, value = tl.sum(w, 1), tl.zeros_like(w)
    for k in range(samples):
        tag = philox.conditional(k)
        u = philox.class_uniforms(key, offset + row, 0, tag, WIDTH, w.dtype == tl.float64)
        noise = philox.exponential(u)
        part = (rows.at_class(noise, j, chosen) / total)[:, None] * w
        y = power(part / (part + noise), tau, POWER)
        y = tl.where(j[None, :] == chosen[:, None], 1.0, y)
        times = 1 / tl.sum(y, 1)
        mean = tl.sum(y * g, 1) * times
        value += y * times[:, None] * (g - mean[:, None])
    stored.store_gradient(to, at, value * (1 / (tau * samples)), inside)


def straight_through(logits, index, grad, tau):
    """The gradient to the logits."""
    check_index(index, logits)
    kernels = straight_through_short, straight_through_long
    return over_rows(*kernels, logits, grad, number(tau, logits))


def darn(logits, index, grad):
    """The gradient to the logits."""
    check_index(index, logits)
    return over_rows(darn_short, darn_long, logits, grad, index.contiguous())


def reinmax(logits, index, grad, tau):
    """The gradient to the logits."""
    check_index(index, logits)
    closed = not isinstance(tau, torch.Tensor) and tau == 1
    outcome, tau = index.contiguous(), number(tau, logits)
    kernels = reinmax_short, reinmax_long
    return over_rows(*kernels, logits, grad, outcome, tau, closed, held=1 if closed else 2)


def gumbel_st(logits, index, grad, tau, samples, seed, offset):
    """The gradient to the logits."""
    check_index(index, logits)
    check_samples(samples)
    check_noise(seed, offset, logits)
    wide = compute_dtype(logits.dtype)
    if samples > 1 and not fits_a_tile(logits, 2) and wide != logits.dtype:  # summed in memory
        given = logits.to(wide), index, grad.to(wide), tau, samples, seed, offset
        return narrowed(gumbel_st(*given), logits.dtype)
    noise = index.contiguous(), number(tau, logits), samples, seed, offset
    kernels = gumbel_st_short, gumbel_st_long
    return over_rows(*kernels, logits, grad, *noise, known_power(tau), held=2)


implement(straight_through, darn, reinmax, gumbel_st)
