"""Categorical draws by inverse CDF in whole numbers: the GPU kernels of reference.py.

Same names, same order.
"""

import torch
import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import philox, rows, stored
from ...core.native.arguments import check_noise, check_rows
from ...core.native.elementary import exp, rough_exp
from ...core.native.rows import laid_out, layout, over_rows
from ...core.native.stored import number

# Weights of at most 1 are multiples of 2^-62 times the number of classes. Their sums are exact, in
# whichever order they are taken, and no class loses its weight beside a larger one.
WHOLE = tl.constexpr(2.0**62)


@triton.jit
def first_above(weight, uniform):
    """The first class a row at which the sum of the weights is above its share; -1 beside a NaN."""
    whole = (weight * (WHOLE / weight.shape[1])).to(tl.int64)
    until = tl.cumsum(whole, 1)
    target = tl.umulhi(uniform << 11, tl.sum(whole, 1).to(tl.uint64)).to(tl.int64)
    drawn = tl.sum((until <= target[:, None]).to(tl.int32), 1)
    sound = tl.sum(weight, 1) > 0
    return tl.where(sound, drawn, -1)


@triton.jit(do_not_specialize=["offset", "count"])
def draw_short(
    x, seed, offset: tl.int64, index, y,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The outcomes of a tile of rows, and their one-hots where `y` is given."""
    row, j, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    logits = stored.load(x, at, inside, -float("inf"))
    uniform = philox.row_bits(tl.load(seed), offset + row)
    drawn = first_above(rough_exp(logits - tl.max(logits, 1)[:, None]), uniform)
    tl.store(index + row, drawn, row < count)
    if y is not None:
        hot = (j[None, :] == drawn[:, None]).to(logits.dtype)
        stored.store(y, at, tl.where(drawn[:, None] < 0, float("nan"), hot), inside)


@triton.jit(do_not_specialize=["count", "offset"])
def gumbel_softmax_short(
    x, to, tau, seed, offset: tl.int64, POWER: tl.constexpr,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """`softmax((x + G) / tau)`, of weights (e^x / E)^(1 / tau), as exp(-G) is an Exp(1) E."""
    row, _, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    logits = stored.load(x, at, inside, -float("inf"))
    below = logits - tl.max(logits, 1)[:, None]
    double: tl.constexpr = below.dtype == tl.float64
    key, tag = tl.load(seed), philox.conditional(0)
    noise = philox.exponential(philox.class_uniforms(key, offset + row, 0, tag, WIDTH, double))
    if POWER == 0:
        noisy = below - tl.log(noise)
        w = exp((noisy - tl.max(noisy, 1)[:, None]) * (1 / stored.read(tau, x)))
    else:
        w = exp(below) / noise
        w = w if POWER == 1 else w * w
    stored.store(to, at, w * (1 / tl.sum(w, 1))[:, None], inside)


def draw_index(logits, seed, offset):
    """Draw a class a row."""
    return draw_rows(logits, seed, offset, None)


def draw(logits, seed, offset):
    """Draw a class a row, and return its one-hot too."""
    y = torch.empty_like(logits)
    return y, draw_rows(logits, seed, offset, y)


def draw_rows(logits, seed, offset, y):
    """The outcomes of rows; one-hots go to `y`."""
    check_rows("logits", logits)
    check_noise(seed, offset, logits)
    index = torch.empty(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    of = layout(logits)
    x = laid_out(of, logits)
    draw_short[of.tiles](x, seed, offset, index, y, *of.arguments, **of.tile)
    return index


def gumbel_softmax(logits, tau, seed, offset):
    """The relaxed draw."""
    check_noise(seed, offset, logits)
    known = {1.0: 1, 0.5: 2}.get(tau, 0) if not isinstance(tau, torch.Tensor) else 0
    return over_rows(gumbel_softmax_short, logits, None, number(tau, logits), seed, offset, known)


implement(draw_index, draw, gumbel_softmax)
