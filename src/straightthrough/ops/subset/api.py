"""Subset operators: k of the classes of a row."""

from __future__ import annotations

from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    ArgumentError,
    Number,
    apply_mask,
    check_outcomes,
    check_rows,
)
from ...core.outcomes import KHot
from ...core.registry import check_not_rule, operator, resolve
from ...core.rules import Relaxation
from ...core.signature import Input
from ...estimators import Softmax
from . import specification
from .operation import TopK


@operator(
    family="subset",
    inputs=(Input("scores", "... C"),),
    outcome=KHot(),
    expected=specification.first_largest,
    gradient=specification.gradient,
    rule="relaxation",
    fits=(Relaxation,),
    default=Softmax(),
    saved_bytes=lambda rule, scores: scores.nbytes,
    arguments={"k": 2},
)
def topk(
    scores: Tensor,
    k: int,
    relaxation: Relaxation | str = "softmax",
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    **fields: Number,
) -> Tensor:
    """The k-hot of the k largest entries, with the gradient of `k softmax(scores / tau)`.

    Forward: `y_i = 1` for the k largest scores along `dim`, else 0. Backward:
    `dL/dscores = k J(p) dL/dy / tau`, `p = softmax(scores / tau)`, `J(p) = diag(p) - p p^T`.

    Args:
        scores: `(..., C)`, C along `dim`; floating.
        k: how many, 1 <= k <= C.
        relaxation: a `Relaxation` or its shorthand; k times its gradient is taken.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the scores; True = allowed.
        fields: numbers for the relaxation's fields: `tau`, > 0, of the softmax.

    Returns:
        A tensor of the shape, dtype and device of `scores`, exactly k ones along `dim`.

    Raises:
        DtypeError: if the scores are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if k lies outside 1..C, the relaxation or a field is unknown, or `tau` is not
            above 0.

    Edge cases: ties go to the lowest index; a row with NaN, or with fewer than k classes above
    -infinity, gives a NaN row (in `st.strict()` an error).

    Higher order: that of the softmax; forward mode works.

    Cost: forward a few passes a row, up to k of up to 64 classes and up to the bits of a number of
    more; a softmax backward; the scores are saved.

    Example:
        >>> st.topk(torch.tensor([1.0, 3.0, 2.0, 2.0]), 2)
        tensor([0., 1., 1., 0.])
    """
    dim = check_rows("scores", scores, dim)
    check_not_rule("k", k, "relaxation")
    classes = scores.shape[dim]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= classes:
        raise ArgumentError(f"k must be an int in [1, {classes}] for {classes} classes, got {k!r}")
    rule = resolve("relaxation", relaxation, Relaxation, fields=fields)
    rows = apply_mask("scores", scores, mask)
    y = apply(TopK(k, rule), rows if dim == -1 else rows.movedim(dim, -1))
    check_outcomes("topk", lambda: y[..., 0].isnan())
    return y if dim == -1 else y.movedim(-1, dim)
