"""Operators of orders: ranks, sorting, matching."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    NOT_A_NUMBER,
    DtypeError,
    Number,
    ShapeError,
    apply_mask,
    check_count,
    check_dense,
    check_flag,
    check_floating,
    check_outcomes,
    check_positive,
    check_rows,
)
from ...core.precision import in_dtype_of
from ...core.registry import operator
from ...core.signature import Input
from . import specification
from .operation import Assign, Permute, Rank, Reorder, Sinkhorn
from .outcomes import Assignment, Permutation, Ranks, Reordered

_SCORES = Input("scores", "... N")


def _with_order(rule: None, scores: Tensor, *values: Tensor) -> int:
    return scores.nbytes + 8 * scores.numel() + sum(each.nbytes for each in values)


def _check_holds_ranks(scores: Tensor, dim: int) -> None:
    most = torch.finfo(torch.float16).max
    if scores.dtype == torch.float16 and scores.shape[dim] > most:
        raise DtypeError(
            f"scores of float16 have ranks of at most {most:.0f}, got {scores.shape[dim]} scores "
            f"along dim {dim}; use scores.float() or scores.bfloat16()"
        )


@operator(
    family="permutation",
    inputs=(_SCORES,),
    outcome=Ranks(),
    expected=specification.rank,
    gradient=specification.rank_gradient,
    saved_bytes=_with_order,
)
def rank(
    scores: Tensor,
    *,
    strength: Number = 2.0,
    descending: bool = False,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """The ranks 1 to n of a row, with the gradient of a projection onto the permutahedron.

    Forward: `y_i = 1 + #{j : s_j < s_i}`, of equal scores the first one first. Backward: that of
    the soft rank of Blondel et al., the nearest point to `s / eps` in the permutahedron (the convex
    hull of all orders of 1, ..., n): `dL/ds = (g - mean of g over its block) / eps`. A block holds
    neighbours in the order that lie closer than about eps to each other, as isotonic regression
    pools them.

    `eps = strength (max s - min s) / (n - 1)`: strength times the mean gap of a row, so that scores
    of any scale have a gradient, and scaled scores the same ranks and blocks. Above 1 some
    neighbours always share a block. An absolute eps, as torchsort's `regularization_strength`, is
    `strength = eps (n - 1) / (max s - min s)`.

    Args:
        scores: `(..., n)`, n along `dim`; floating.
        strength: of the smoothing, > 0. The larger, the more of a row is in one block and the
            smaller its gradient; up to 1 the gradient may be 0.
        descending: whether rank 1 is the largest score's.
        dim: the dimension of what is ranked.
        mask: bool, broadcastable to the scores; True = ranked. The others have rank 0, and so has
            what is at -infinity.

    Returns:
        A tensor of the shape, dtype and device of `scores`. In bfloat16 ranks above 256, in float16
        above 2048, are rounded, as these dtypes have not all whole numbers.

    Raises:
        DtypeError: if the scores are not floating, or float16 and more than 65,504 along `dim`,
            where ranks would be infinite, or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is nothing along `dim`.
        ArgumentError: if `strength` is not above 0.

    Edge cases: a row with NaN, or with nothing that is ranked, gives NaN (in `st.strict()` an
    error). Equal scores share a block, however they are ranked; where all are equal `eps` is
    `strength`. A row with +infinity has gradient 0, and so has a row of one score.

    Higher order: differentiates the formula, the blocks held (`eps` moves with the extremes of a
    row); forward mode works.

    Cost: forward by the kernel one pass for each byte of a score, by the reference one stable sort;
    backward O(n) by the kernel, O(n log^2 n) by the reference, in float64 inside. Scores and order
    are saved.

    Example:
        >>> scores = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)
        >>> y = st.rank(scores)
        >>> y[2].backward()
        >>> y.tolist(), scores.grad
        ([2.0, 1.0, 3.0], tensor([-0.1111, -0.1111,  0.2222]))

    References:
        Blondel, Teboul, Berthet, Djolonga, "Fast differentiable sorting and ranking", 2020.
    """
    operation = Rank(check_positive("strength", strength), check_flag("descending", descending))
    dim = check_rows("scores", scores, dim)
    _check_holds_ranks(scores, dim)
    rows = apply_mask("scores", scores, mask)
    y: Tensor = apply(operation, rows if dim == -1 else rows.movedim(dim, -1))
    check_outcomes("rank", lambda: y.isnan().any(-1))
    return y if dim == -1 else y.movedim(-1, dim)


@operator(
    family="permutation",
    inputs=(_SCORES,),
    outcome=Permutation(),
    expected=specification.permutation,
    gradient=specification.permutation_gradient,
    saved_bytes=_with_order,
)
def permutation(scores: Tensor, *, tau: Number = 1.0, descending: bool = True) -> Tensor:
    """The matrix that sorts a row, with the gradient of SoftSort.

    Forward: `P_ij = 1` where j is the i-th entry in order, so that `P @ scores` is sorted; of equal
    scores the first one comes first. Backward: that of `softmax_j(-|s_[i] - s_j| / tau)`, `s_[i]`
    the i-th score in order.

    Args:
        scores: `(..., n)`; floating.
        tau: temperature of the backward, in units of the scores, > 0.
        descending: whether the largest score comes first.

    Returns:
        `(..., n, n)`, in the dtype and on the device of `scores`: one 1 in every row and column.

    Raises:
        DtypeError: if the scores are not floating.
        ShapeError: if there is no dimension, or nothing along the last one.
        ArgumentError: if `tau` is not above 0.

    Edge cases: a row of scores with NaN gives a matrix of NaN (in `st.strict()` an error).
    Infinities are sorted as any number; they get no gradient.

    Higher order: differentiates the formula, the order held; forward mode works.

    Cost: one stable sort and the matrix forward; backward reads the gradient to the matrix once.
    Scores and order are saved. Where the matrix is only multiplied with something, `st.reorder`
    does that without it.

    Example:
        >>> st.permutation(torch.tensor([1.0, 3.0, 2.0]))
        tensor([[0., 1., 0.],
                [0., 0., 1.],
                [1., 0., 0.]])

    References:
        Prillo, Eisenschlos, "SoftSort: a continuous relaxation for the argsort operator", 2020.
    """
    operation = Permute(check_positive("tau", tau), check_flag("descending", descending))
    check_rows("scores", scores, -1)
    y: Tensor = apply(operation, scores)
    check_outcomes("permutation", lambda: y[..., 0, 0].isnan(), NOT_A_NUMBER)
    return y


@operator(
    family="permutation",
    inputs=(_SCORES, Input("values", "... N D")),
    outcome=Reordered(),
    expected=specification.reorder,
    gradient=specification.reorder_gradient,
    saved_bytes=_with_order,
)
def reorder(
    scores: Tensor, values: Tensor, *, tau: Number = 1.0, descending: bool = True
) -> Tensor:
    """The values in the order of their scores, with the gradient of SoftSort to the scores.

    Forward: `y_i = values_[i]`, `[i]` the i-th entry in the order of the scores. Backward: value
    and gradients are those of `st.permutation(scores) @ values`: to the scores that of SoftSort, to
    the values those of their new places.

    Args:
        scores: `(..., n)`; floating.
        values: `(..., n, D)`, in the scores' dtype; under `torch.autocast` it is cast to that. For
            numbers in the place of vectors, `values.unsqueeze(-1)`.
        tau: temperature of the backward, in units of the scores, > 0.
        descending: whether the largest score comes first.

    Returns:
        A new tensor of the shape of `values`, its rows bit for bit.

    Raises:
        DtypeError: if they are not floating, or of two dtypes.
        ShapeError: if the values are not `(..., n, D)`, or there is nothing to sort.
        ArgumentError: if `tau` is not above 0.

    Edge cases: those of `st.permutation`; a row of scores with NaN gives NaN, and to its values no
    gradient.

    Higher order: as `st.permutation`.

    Cost: one stable sort and a gather forward. Backward takes O(n^2 D) time, some rows of the
    matrix after others, so that about 2^19 of its entries exist at once; all do in compiled code
    and where a second derivative is due. Scores, values and order are saved.

    Example:
        >>> values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
        >>> st.reorder(torch.tensor([0.1, 0.9, 0.5]), values)
        tensor([[ 2., 20.],
                [ 3., 30.],
                [ 1., 10.]])

    References:
        Prillo, Eisenschlos, "SoftSort: a continuous relaxation for the argsort operator", 2020.
    """
    operation = Reorder(check_positive("tau", tau), check_flag("descending", descending))
    check_rows("scores", scores, -1)
    values = in_dtype_of("scores", scores, "values", values)
    if values.shape[:-1] != scores.shape:
        raise ShapeError(
            f"values must be (..., n, D) for scores (..., n) of shape {tuple(scores.shape)}, got "
            f"{tuple(values.shape)}; use values.unsqueeze(-1) for a number an entry"
        )
    y: Tensor = apply(operation, scores, values)
    check_outcomes("reorder", lambda: scores.isnan().any(-1), NOT_A_NUMBER)
    return y


@operator(
    family="permutation",
    inputs=(Input("scores", "... N N"),),
    outcome=Assignment(),
    expected=specification.assignment,
    gradient=specification.assignment_gradient,
    saved_bytes=lambda rule, scores: scores.nbytes + 8 * scores.shape[:-1].numel(),
    arguments={"iterations": 4},
)
def assignment(scores: Tensor, *, tau: Number = 1.0, iterations: int = 20) -> Tensor:
    """The assignment of rows to columns that keeps the most, with the gradient of Sinkhorn.

    Forward: the permutation matrix P of the largest `sum_ij P_ij s_ij`. Backward: that of
    `exp(scores / tau)`, whose rows and columns are divided by their sums in turn.

    Args:
        scores: `(..., n, n)`; floating. Costs are scores with a minus.
        tau: temperature of the backward, in units of the scores, > 0.
        iterations: how often rows and columns are divided, at least 1. The smaller tau, the more of
            them bring the sums near 1.

    Returns:
        A tensor of the shape, dtype and device of `scores`: one 1 in every row and column.

    Raises:
        DtypeError: if the scores are not floating.
        ShapeError: if they are not squares.
        ArgumentError: if `tau` is not above 0, or `iterations` is no int of at least 1.
        StraightThroughError: if scipy is not installed.

    Edge cases: what is at -infinity is never assigned. A square with NaN or +infinity, or without
    an assignment that is allowed, gives NaN (in `st.strict()` an error). Of assignments that are as
    good, scipy's algorithm takes one.

    Higher order: differentiates the iterations; forward mode works.

    Cost: forward `scipy.optimize.linear_sum_assignment`, O(n^3), one square after the other on the
    CPU (on another device it waits for the copy); backward the iterations there and back, in
    float64. By the kernel a thread has one square at a time, of which scales of rows and columns
    are kept; where these go beyond 1e110, a matrix a scaling. The reference keeps such matrices of
    all squares: 16 bytes an entry and iteration. Scores and columns are saved.

    Example:
        >>> st.assignment(torch.tensor([[3.0, 2.0], [2.0, 0.0]]))
        tensor([[0., 1.],
                [1., 0.]])

    References:
        Mena, Belanger, Linderman, Snoek, "Learning latent permutations with Gumbel-Sinkhorn
        networks", 2018.
    """
    iterations = check_count("iterations", iterations)
    relaxation = Sinkhorn(check_positive("tau", tau), iterations)
    check_floating("scores", scores)
    if scores.is_nested:
        check_dense("scores", scores)
    if scores.ndim < 2 or scores.shape[-1] != scores.shape[-2] or scores.shape[-1] == 0:
        raise ShapeError(
            f"scores must be squares, (..., n, n) with n at least 1, got {tuple(scores.shape)}; "
            f"fill up what is missing with a constant score"
        )
    y: Tensor = apply(Assign(relaxation), scores)
    check_outcomes("assignment", lambda: y[..., 0, 0].isnan())
    return y
