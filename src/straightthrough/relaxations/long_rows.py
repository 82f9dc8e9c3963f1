"""The softmax's gradients on GPUs of rows too long for a tile; triton.py launches them."""

import triton
import triton.language as tl

from ..core.native import rows, stored
from ..core.native.elementary import exp


@triton.jit
def pull_long(
    x, grad, to, inverse, scale, LOGITS: tl.constexpr, CERTAIN: tl.constexpr,
    classes, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write `J(y) g scale inverse`, y the softmax of `inverse` times `x`, or `x` itself.

    Rows that are `CERTAIN`, by an infinity, get 0.

    As in `rows.relative_to`, g is taken relative to that of the likeliest class, so far.
    """
    peak, likeliest = rows.least(x), rows.nothing(x)
    total, weighted, broken = rows.nothing(x), rows.nothing(x), 0
    for first in range(0, classes, WIDTH):
        _, inside, at = rows.block(first, classes, WIDTH)
        z = stored.load(x, at, inside, -float("inf"))
        g = stored.load(grad, at, inside, 0.0)
        highest = tl.max(z, 0)
        there = tl.max(tl.where(z == highest, g, -float("inf")), 0)
        before, older = peak, likeliest
        peak = tl.maximum(peak, highest)
        likeliest = tl.where(highest > before, there, older)
        if LOGITS:
            w, shrunk = exp((z - peak) * inverse), exp((before - peak) * inverse)
        else:
            w, shrunk = tl.where(inside, z, 0.0), 1.0
        weighted = (weighted + (older - likeliest) * total) * shrunk
        weighted += tl.sum(w * tl.where(inside, g - likeliest, 0.0), 0)
        total = total * shrunk + tl.sum(w, 0)
        broken += tl.sum((z != z).to(tl.int32), 0)
    mean, factor = weighted, inverse * scale
    if LOGITS:
        mean, factor = mean / total, factor / total
    for first in range(0, classes, WIDTH):
        _, inside, at = rows.block(first, classes, WIDTH)
        z = stored.load(x, at, inside, -float("inf"))
        w = exp((z - peak) * inverse) if LOGITS else z
        value = w * factor * (stored.load(grad, at, inside, 0.0) - likeliest - mean)
        if LOGITS and CERTAIN:
            value = tl.where((peak == float("inf")) & (broken == 0), 0.0, value)
        stored.store_gradient(to, at, value, inside)


@triton.jit
def of_value_long(y, grad, to, tau, vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr):
    """As `of_value_short`."""
    pull_long(y, grad, to, 1 / stored.read(tau, y), 1.0, False, False, vectors * VECTOR, WIDTH)


@triton.jit
def of_logits_long(
    x, grad, to, tau, scale, vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """As `of_logits_short`."""
    inverse, scale = 1 / stored.read(tau, x), stored.read(scale, x)
    pull_long(x, grad, to, inverse, scale, True, True, vectors * VECTOR, WIDTH)
