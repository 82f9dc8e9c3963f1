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
from ...relaxations import Threshold
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
    default=Threshold(),
    saved_bytes=lambda rule, scores: scores.nbytes,
    arguments={"k": 2},
)
def topk(
    scores: Tensor,
    k: int,
    relaxation: Relaxation | str = "logistic",
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    **fields: Number,
) -> Tensor:
    """The k-hot of the k largest entries, with the gradient of `sigmoid((scores - b) / tau)`.

    Forward: `y_i = 1` for the k largest scores along `dim`, else 0. Backward: the threshold b is
    where the sigmoids of a row sum to k, `f = sigmoid'((scores - b) / tau)`, and
    `dL/dscores = f (dL/dy - <f, dL/dy> / sum f) / tau`; that of any other relaxation on request.

    Args:
        scores: `(..., C)`, C along `dim`; floating.
        k: how many, 1 <= k <= C.
        relaxation: a `Relaxation` or its shorthand: `"logistic"`, `"laplace"` or `"midpoint"`, the
            laws of `st.relaxations.Threshold`, or `"softmax"`, k times a softmax.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the scores; True = allowed.
        fields: numbers for the relaxation's fields, as `tau=0.5`.

    Returns:
        A tensor of the shape, dtype and device of `scores`, exactly k ones along `dim`.

    Raises:
        DtypeError: if the scores are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if k lies outside 1..C, the relaxation or a field is unknown, or `tau` is not
            above 0.

    Edge cases: ties go to the lowest index; a row with NaN, or with fewer than k classes above
    -infinity, gives a NaN row (in `st.strict()` an error).

    Higher order: that of the relaxation, the threshold moving along; forward mode works.

    Cost: forward a few passes a row, up to k of up to 64 classes and up to the bits of a number of
    more; backward that of the relaxation, about eight sigmoids an entry; the scores are saved.

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
