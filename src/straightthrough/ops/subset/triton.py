"""k-hots of the largest classes: the GPU kernel of reference.py."""

import torch
import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import rows, stored
from ...core.native.arguments import check_rows, refuse
from ...core.native.rows import over_rows
from ...core.native.selection import key_of, kth_largest
from . import reference

LONGEST = 8192
"""Classes of a row that the registers hold, in single precision; half as many in double."""


@triton.jit(do_not_specialize=["k", "count"])
def topk_short(
    x, to, k, count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """1 at the k largest classes of a row, of equal ones at the first."""
    _, _, inside, at = rows.tile(count, vectors, inner, VECTOR, ROWS, WIDTH)
    v = stored.load(x, at, inside, -float("inf"))
    allowed = tl.sum((v > -float("inf")).to(tl.int32), 1) >= k
    sound = allowed & (tl.sum((v != v).to(tl.int32), 1) == 0)
    key = tl.where(inside, key_of(v), 0)
    least = kth_largest(key, k, ROWS)
    above, tied = key > least[:, None], (key == least[:, None]) & inside
    places = k - tl.sum(above.to(tl.int32), 1)
    chosen = above | (tied & (tl.cumsum(tied.to(tl.int32), 1) <= places[:, None]))
    stored.store(to, at, tl.where(sound[:, None], chosen.to(v.dtype), float("nan")), inside)


def topk_hot(scores, k):
    """The k-hot of the largest scores a row; rows too long for a tile are the reference's."""
    check_rows("scores", scores)
    if not 1 <= k <= scores.shape[-1]:
        refuse("k must lie in [1, ", scores.shape[-1], "], got ", k)
    if scores.shape[-1] > (LONGEST // 2 if scores.dtype == torch.float64 else LONGEST):
        return reference.topk_hot.__wrapped__(scores, k)
    return over_rows(topk_short, None, scores, None, k)


implement(topk_hot)
