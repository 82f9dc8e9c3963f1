"""The gradient of sigmoids that share a threshold: the GPU kernel of threshold.py."""

import triton
import triton.language as tl

from ..core.gpu import implement
from ..core.native import rows, stored
from ..core.native.arguments import check_alike, check_rows, refuse
from ..core.native.elementary import sigmoid
from ..core.native.rows import fits_a_tile, over_rows
from ..core.native.selection import key_of, kth_largest, number_of
from ..core.native.stored import number
from . import threshold

STEPS = tl.constexpr(8)
"""Of Newton's method."""


@triton.jit
def neighbours(v, k, ROWS: tl.constexpr):
    """The k-th largest of each row and the one after it, -infinity where there is none."""
    least = number_of(kth_largest(key_of(v), k, ROWS), v.dtype)
    chosen = v >= least[:, None]
    after = tl.max(tl.where(chosen, -float("inf"), v), 1)
    return least, tl.where(tl.sum(chosen.to(tl.int32), 1) > k, least, after)


@triton.jit
def logistic_level(z, k, gap):
    """The level at which sigmoids sum to k, by Newton's method on `log(R / D)`.

    D is what the k largest lack of k, R what the others have; z is relative to the k-th largest.
    """
    above, below = z > 0, z < 0
    tied_above = (k - tl.sum(above.to(tl.int32), 1)).to(z.dtype)
    tied_below = tl.sum((z == 0).to(tl.int32), 1).to(z.dtype) - tied_above
    b = gap * 0.5
    for _ in range(STEPS):
        part, slope = sigmoid(tl.where(above, b[:, None] - z, z - b[:, None]))
        over, falls = sigmoid(b)
        under, _ = sigmoid(-b)
        lacking = tl.sum(tl.where(above, part, 0.0), 1) + tied_above * over
        having = tl.sum(tl.where(below, part, 0.0), 1) + tied_below * under
        slopes = (tl.sum(tl.where(above, slope, 0.0), 1) + tied_above * falls) / lacking
        slopes += (tl.sum(tl.where(below, slope, 0.0), 1) + tied_below * falls) / having
        step = tl.log(having / lacking) / slopes
        b = tl.where((lacking > 0) & (having > 0), b + step, b)
    return b


@triton.jit(do_not_specialize=["k", "count"])
def logistic_backward_short(
    x, grad, to, k, tau,
    count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """`f (g - <f, g> / sum f) / tau`; 0 where nothing finite parts the chosen from the others."""
    _, _, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    v, g = stored.load(x, at, inside, -float("inf")), stored.load(grad, at, inside, 0.0)
    least, after = neighbours(v, k, ROWS)
    inverse = 1 / stored.read(tau, x)
    gap = (after - least) * inverse
    certain = (tl.abs(gap) < float("inf")) == 0
    z = tl.where(certain[:, None], -float("inf"), (v - least[:, None]) * inverse)
    b = logistic_level(z, k, tl.where(certain, 0.0, gap))
    _, f = sigmoid(z - b[:, None])
    g = rows.relative_to(f == tl.max(f, 1)[:, None], g)
    total, weighted = tl.sum(f, 1), tl.sum(f * g, 1)
    mean = tl.where(total > 0, weighted / total, 0.0)
    value = tl.where(certain[:, None], 0.0, f * inverse * (g - mean[:, None]))
    unordered = tl.sum((v != v).to(tl.int32), 1) > 0
    value = tl.where(unordered[:, None], float("nan"), value)
    stored.store_gradient(to, at, value, inside)


def logistic_backward(x, grad, k, tau):
    """The gradient to the scores; rows too long for a tile are the reference's."""
    check_rows("x", x)
    check_alike("grad", grad, x)
    if not 1 <= k <= x.shape[-1]:
        refuse("k must lie in [1, ", x.shape[-1], "], got ", k)
    if not fits_a_tile(x, 4):
        return threshold.logistic_backward.__wrapped__(x, grad, k, tau)
    return over_rows(logistic_backward_short, None, x, grad, k, number(tau, x), held=4)


implement(logistic_backward)
