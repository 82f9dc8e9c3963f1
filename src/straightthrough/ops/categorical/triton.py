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
from ...core.native.rows import fresh_in, laid_out, layout, over_rows
from ...core.native.stored import known_power, number
from ...core.precision import compute_dtype

# Weights of at most 1 are multiples of 2^-62 times the number of classes. Their sums are exact, in
# whichever order they are taken, and no class loses its weight beside a larger one.
WHOLE = tl.constexpr(2.0**62)

LANES = 512
"""Of a program that draws, at most: a weight takes two registers."""


@triton.jit
def whole(weight, CLASSES: tl.constexpr):
    """Weights of at most 1 as whole numbers, so many of which are at most 2^62 together."""
    return (weight * (WHOLE / CLASSES)).to(tl.int64)


@triton.jit
def share(uniform, total):
    """A uniform of 53 bits times a total, rounded down: it is below the total."""
    return tl.umulhi(uniform << 11, total.to(tl.uint64)).to(tl.int64)


@triton.jit(do_not_specialize=["offset", "count"])
def draw_short(
    x, seed, offset: tl.int64, index, y,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The outcomes of a tile of rows, and their one-hots where `y` is given."""
    row, _, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    logits = stored.load(x, at, inside, -float("inf"))
    uniform = philox.row_bits(tl.load(seed), offset + row)
    weight = rough_exp(logits - tl.max(logits, 1)[:, None])
    sound = tl.sum(weight, 1) > 0  # NaN is not
    until = tl.cumsum(whole(weight, WIDTH), 1)
    target = share(uniform, tl.max(until, 1))
    drawn = tl.sum((until <= target[:, None]).to(tl.int32), 1)
    drawn = tl.where(sound, drawn, -1)
    tl.store(index + row, drawn, row < count)
    if y is not None:
        rows.store_hot(y, drawn, sound, row, count, vectors, inner, VECTOR, WIDTH)


@triton.jit
def draw_blocks(
    x, peaks, totals, y, vectors,
    BLOCKS: tl.constexpr, CLASSES: tl.constexpr, VECTOR: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The largest logit of a block of a long row, and its weight beside that; `y` becomes 0."""
    program, classes = tl.program_id(0).to(tl.int64), vectors * VECTOR
    j = program % BLOCKS * WIDTH + tl.arange(0, WIDTH)
    inside, at = j < classes, program // BLOCKS * classes + j
    logits = stored.load(x, at, inside, -float("inf"))
    peak = tl.maximum(tl.max(logits, 0), rows.least(x))
    weight = rough_exp(logits - peak)
    sound = tl.sum(weight, 0) >= 0
    tl.store(peaks + program, tl.where(sound, peak, float("nan")))
    tl.store(totals + program, tl.sum(whole(weight, CLASSES), 0))
    if y is not None:
        stored.store(y, at, tl.zeros_like(weight), inside)


@triton.jit(do_not_specialize=["offset"])
def draw_long(
    x, seed, offset: tl.int64, index, y, peaks, totals, vectors,
    BLOCKS: tl.constexpr, CLASSES: tl.constexpr, VECTOR: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The outcome of a long row, out of what its blocks weigh: a block is drawn, and a class of it.

    A number a block is in double precision, none a class.
    """
    row, classes = tl.program_id(0).to(tl.int64), vectors * VECTOR
    i = tl.arange(0, CLASSES // WIDTH)
    peak = tl.load(peaks + row * BLOCKS + i, i < BLOCKS, -float("inf"))
    total = tl.load(totals + row * BLOCKS + i, i < BLOCKS, 0)
    scale = tl.exp((peak - tl.max(peak, 0)).to(tl.float64))
    weights = (total.to(tl.float64) * scale).to(tl.int64)
    target = share(philox.row_bits(tl.load(seed), offset + row), tl.sum(weights, 0))
    block = tl.sum((tl.cumsum(weights, 0) <= target).to(tl.int32), 0)
    chosen = i == block
    rest = target - tl.sum(tl.where(i < block, weights, 0), 0)
    rest = (rest.to(tl.float64) / tl.sum(tl.where(chosen, scale, 0.0), 0)).to(tl.int64)
    rest = tl.minimum(rest, tl.sum(tl.where(chosen, total, 0), 0) - 1)
    j = block * WIDTH + tl.arange(0, WIDTH)
    logits = stored.load(x, row * classes + j, j < classes, -float("inf"))
    weight = rough_exp(logits - tl.sum(tl.where(chosen, peak, 0.0), 0))
    drawn = block * WIDTH + tl.sum((tl.cumsum(whole(weight, CLASSES), 0) <= rest).to(tl.int32), 0)
    sound = (tl.sum(weights, 0) > 0) & (tl.sum((peak != peak).to(tl.int32), 0) == 0)
    tl.store(index + row, tl.where(sound, drawn, -1))
    if y is not None:
        if sound:
            tl.store(y + row * classes + drawn, 1.0)
        else:
            for first in range(0, classes, WIDTH):
                j, inside, at = rows.block(first, classes, WIDTH)
                stored.store(y, at, tl.full([WIDTH], float("nan"), tl.float32), inside)


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


@triton.jit(do_not_specialize=["offset"])
def gumbel_softmax_long(
    x, to, tau, seed, offset: tl.int64, POWER: tl.constexpr,
    vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """As `gumbel_softmax_short`. Beside the largest logit no digit of the noise is lost."""
    classes, inverse = vectors * VECTOR, 1 / stored.read(tau, x)
    double: tl.constexpr = x.dtype.element_ty == tl.float64
    row, key, tag = tl.program_id(0).to(tl.int64), tl.load(seed), philox.conditional(0)
    largest = rows.least(x)
    for first in range(0, classes, WIDTH):
        _, inside, at = rows.block(first, classes, WIDTH)
        largest = tl.maximum(largest, tl.max(stored.load(x, at, inside, -float("inf")), 0))
    peak, total = rows.least(x), rows.nothing(x)
    for last in tl.static_range(2):
        for first in range(0, classes, WIDTH):
            _, inside, at = rows.block(first, classes, WIDTH)
            noise = philox.exponentials(key, offset + row, first, tag, WIDTH, double)
            noisy = stored.load(x, at, inside, -float("inf")) - largest - tl.log(noise)
            if last:
                stored.store(to, at, exp((noisy - peak) * inverse) * (1 / total), inside)
            else:
                before, peak = peak, tl.maximum(peak, tl.max(noisy, 0))
                total = total * exp((before - peak) * inverse)
                total += tl.sum(exp((noisy - peak) * inverse), 0)


def draw_index(logits, seed, offset):
    """Draw a class a row."""
    return draw_rows(logits, seed, offset, False)[1]


def draw(logits, seed, offset):
    """Draw a class a row, and return its one-hot too."""
    return draw_rows(logits, seed, offset, True)


def draw_rows(logits, seed, offset, hot):
    """The one-hots of rows, if they are asked for, and their outcomes."""
    check_rows("logits", logits)
    check_noise(seed, offset, logits)
    of = layout(logits)
    x, y = laid_out(of, logits), fresh_in(of, logits) if hot else None
    index = torch.empty(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    if of.short:
        tile = of.tile_of(LANES)
        draw_short[of.tiles](x, seed, offset, index, y, *of.arguments, **tile)
        return y, index
    peaks = torch.empty(of.rows, of.blocks, dtype=compute_dtype(x.dtype), device=x.device)
    totals = torch.empty_like(peaks, dtype=torch.int64)
    sizes = {"BLOCKS": of.blocks, "CLASSES": triton.next_power_of_2(of.classes), **of.block}
    vectors = of.classes // of.vector
    draw_blocks[(of.rows * of.blocks,)](x, peaks, totals, y, vectors, **sizes)
    draw_long[(of.rows,)](x, seed, offset, index, y, peaks, totals, vectors, **sizes)
    return y, index


def gumbel_softmax(logits, tau, seed, offset):
    """The relaxed draw."""
    check_noise(seed, offset, logits)
    noise = number(tau, logits), seed, offset, known_power(tau)
    return over_rows(gumbel_softmax_short, gumbel_softmax_long, logits, None, *noise)


implement(draw_index, draw, gumbel_softmax)
