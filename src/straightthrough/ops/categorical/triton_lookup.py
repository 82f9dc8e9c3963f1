"""The backward of a row that a draw looks up, in one pass: the GPU kernel of lookup.py."""

import torch
import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import rows, stored
from ...core.native.arguments import check_index, check_rows, described, refuse
from ...core.noise import NOISELESS
from ...core.precision import narrowed
from ...estimators.reinmax import ReinMax
from ...estimators.straight_through import StraightThrough
from ...estimators.triton import reinmax_of, straight_through_of
from .lookup import by_blocks, to_table

LONGEST = 512
"""Classes of a row whose gradient stays in registers.

A longer row would be multiplied by the table twice, for the sums and for the gradient. That is 2 D
operations a class more, to save the 8 bytes of writing and reading it, which takes longer from
about D = 20 on.
"""

ELEMENTS, EACH = 8192, 16
"""Of a tile, and of a lane. The products of tiles want 16 rows of one at least."""

DEPTH = 16
"""Numbers of a row of the table that are multiplied at once."""


@triton.jit(do_not_specialize=["count"])
def lookup_kernel(
    x, table, index, grad, to, sums, tau, count, classes, depth,
    RULE: tl.constexpr, CLOSED: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The gradient to the logits of a tile of rows, and what it adds to that of the table."""
    row, j = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    there, known = (row < count)[:, None], (j < classes)[None, :]
    chosen = tl.load(index + row, row < count, -1)
    to_one_hot = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, depth, DEPTH):
        d = first + tl.arange(0, DEPTH)
        given = there & (d < depth)[None, :]
        g = tl.load(grad + row[:, None] * depth + d[None, :], given, 0.0)
        t = tl.load(table + j[None, :] * depth + d[:, None], known & (d < depth)[:, None], 0.0)
        to_one_hot = tl.dot(g, t, to_one_hot, input_precision="ieee")
        if sums is not None:
            at = chosen[:, None] * depth + d[None, :]
            tl.atomic_add(sums + at, g.to(tl.float32), given & (chosen >= 0)[:, None])
    inside, at = there & known, row[:, None] * classes + j[None, :]
    logits = stored.load(x, at, inside, -float("inf"))
    value = RULE(logits, to_one_hot, j, tl.maximum(chosen, 0), stored.read(tau, x), CLOSED)
    stored.store_gradient(to, at, value, inside)


def straight_through_lookup(logits, table, index, grad, tau):
    """The gradients to the logits and to the table."""
    return looked_up(straight_through_of, StraightThrough(tau), logits, table, index, grad)


def reinmax_lookup(logits, table, index, grad, tau):
    """The gradients to the logits and to the table."""
    return looked_up(reinmax_of, ReinMax(tau), logits, table, index, grad)


def looked_up(rule, estimator, logits, table, index, grad):
    """The gradients of an estimator, whose formula for a tile is `rule`.

    Those to a row of the table are added as they come, unless torch is told to be deterministic.
    """
    check_rows("logits", logits)
    check_index(index, logits)
    classes, depth = logits.shape[-1], grad.shape[-1]
    for name, x, shape in (
        ("table", table, (classes, depth)),
        ("grad", grad, (*index.shape, depth)),
    ):
        if (x.dtype, x.shape, x.device) != (logits.dtype, shape, logits.device):
            refuse(name, " must have the dtype of ", described(logits), ", got ", described(x))
    if classes > LONGEST or logits.dtype == torch.float64:
        return by_blocks(estimator, logits, table, index, grad, NOISELESS)
    x, of, chosen, g = (each.contiguous() for each in (logits, table, index, grad))
    to, sums = torch.empty_like(x), None
    if not torch.are_deterministic_algorithms_enabled():
        sums = torch.zeros(classes, depth, device=x.device)
    if count := chosen.numel():
        width = max(16, triton.next_power_of_2(classes))
        tile = {"ROWS": max(16, min(64, ELEMENTS // width)), "WIDTH": width, "DEPTH": DEPTH}
        warps = max(4, tile["ROWS"] * width // EACH // rows.LANES)
        lookup_kernel[(triton.cdiv(count, tile["ROWS"]),)](
            *(x, of, chosen, g, to, sums, estimator.tau, count, classes, depth),
            **{"RULE": rule, "CLOSED": estimator.tau == 1} | tile,
            **stored.options(warps),
        )
    if sums is None:
        return to, to_table(table, chosen.flatten(), g.reshape(-1, depth).float())
    return to, narrowed(sums, table.dtype)


implement(straight_through_lookup, reinmax_lookup)
