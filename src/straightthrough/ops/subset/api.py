"""Subset operators: k of the classes of a row."""

from __future__ import annotations

from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    ArgumentError,
    apply_mask,
    check_outcomes,
    check_positive,
    check_rows,
)
from ...core.outcomes import KHot
from ...core.registry import operator, resolve
from ...core.rules import Relaxation
from ...core.signature import Input
from ...estimators import Softmax
from ...estimators.categorical import is_one
from . import specification
from .operation import TopK


@operator(
    room="subset",
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
    tau: float = 1.0,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """The k-hot of the k largest entries, with the gradient of `k softmax(scores / tau)`.

    Forward: `y_i = 1` for the k largest scores along `dim`, else 0. Backward:
    `dL/dscores = k J(p) dL/dy / tau`, `p = softmax(scores / tau)`, `J(p) = diag(p) - p p^T`.

    Args:
        scores: `(..., C)`, C along `dim`; floating.
        k: how many, 1 <= k <= C.
        relaxation: `"softmax"`, or a `Relaxation` that has its own temperature; k times its
            gradient is taken.
        tau: temperature of `"softmax"`, > 0.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the scores; True = allowed.

    Returns:
        A tensor of the shape, dtype and device of `scores`, exactly k ones along `dim`.

    Raises:
        DtypeError: if the scores are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if k lies outside 1..C, the relaxation is unknown, `tau` is not above 0, or
            `tau` is given beside a relaxation that has its own.

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
    tau = check_positive("tau", tau)
    classes = scores.shape[dim]
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= classes:
        raise ArgumentError(f"k must be an int in [1, {classes}] for {classes} classes, got {k!r}")
    softmax = relaxation == "softmax"
    rule = Softmax(tau) if softmax else resolve("relaxation", relaxation, Relaxation)
    if not is_one(tau) and not softmax and rule != Softmax(tau):
        raise ArgumentError(f"tau={tau} belongs to relaxation='softmax'; {rule} has its own")
    rows = apply_mask("scores", scores, mask)
    y = apply(TopK(k, rule), rows if dim == -1 else rows.movedim(dim, -1))
    check_outcomes("topk", lambda: y[..., 0].isnan())
    return y if dim == -1 else y.movedim(-1, dim)
