"""One-hots of the largest class: the GPU kernel of `argmax_hot` in reference.py."""

import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import rows, stored
from ...core.native.rows import over_rows


@triton.jit(do_not_specialize=["count"])
def argmax_short(
    x, to, count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """1 at the first largest class of a row; NaN where there is a NaN, or no class is allowed."""
    row, j, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    v = stored.load(x, at, inside, -float("inf"))
    top = tl.max(v, 1)
    chosen = tl.min(tl.where(v == top[:, None], j[None, :], WIDTH), 1)
    sound = (top > -float("inf")) & (tl.sum((v != v).to(tl.int32), 1) == 0)
    rows.store_hot(to, chosen, sound, row, count, vectors, inner, VECTOR, WIDTH)


@triton.jit
def argmax_long(x, to, vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr):
    """As `argmax_short`."""
    classes = vectors * VECTOR
    top, chosen = rows.nothing(x) - float("inf"), tl.full([], -1, tl.int32)
    unordered = tl.full([], 0, tl.int32)
    for first in range(0, classes, WIDTH):
        j, inside, at = rows.block(first, classes, WIDTH)
        v = stored.load(x, at, inside, -float("inf"))
        peak = tl.max(v, 0)
        here = tl.min(tl.where(v == peak, j, classes), 0)
        chosen, top = tl.where(peak > top, here, chosen), tl.where(peak > top, peak, top)
        unordered += tl.sum((v != v).to(tl.int32), 0)
    sound = (chosen >= 0) & (unordered == 0)
    for first in range(0, classes, WIDTH):
        j, inside, at = rows.block(first, classes, WIDTH)
        hot = (j == chosen).to(top.dtype)
        stored.store(to, at, tl.where(sound, hot, float("nan")), inside)


def argmax_hot(logits):
    """The one-hot of the first largest class a row."""
    return over_rows(argmax_short, argmax_long, logits, None)


implement(argmax_hot)
