"""Subset operators: k of the classes of a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    Number,
    check_outcomes,
)
from ...core.noise import Seed, make_seed
from ...core.outcomes import KHot
from ...core.registry import operator, resolve
from ...core.rules import Relaxation
from ...core.signature import Input
from ...estimators import Simple, SubsetEstimator
from ...relaxations import Threshold
from . import specification
from .operation import PerturbedTopK, SubsetDraw, TopK
from .rows import subset_rows

_COMMON: dict[str, Any] = {"family": "subset", "arguments": {"k": 2}}
_OF_LOGITS = _COMMON | {"inputs": (Input("logits", "... C"),)}


@operator(
    inputs=(Input("scores", "... C"),),
    outcome=KHot(),
    expected=specification.first_largest,
    gradient=specification.gradient,
    rule="relaxation",
    fits=(Relaxation,),
    default=Threshold(),
    saved_bytes=lambda rule, scores: scores.nbytes,
    **_COMMON,
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
    rows, k, dim = subset_rows("scores", scores, k, dim, mask, "relaxation")
    rule = resolve("relaxation", relaxation, Relaxation, fields=fields)
    y = apply(TopK(k, rule), rows)
    check_outcomes("topk", lambda: y[..., 0].isnan())
    return y if dim == -1 else y.movedim(-1, dim)


@operator(
    outcome=KHot(),
    expected=specification.inclusions,
    gradient=specification.perturbed_gradient,
    rule="relaxation",
    fits=(Relaxation,),
    default=Threshold(),
    saved_bytes=lambda rule, logits: logits.nbytes + 8,
    **_OF_LOGITS,
)
def sample_topk(
    logits: Tensor,
    k: int,
    relaxation: Relaxation | str = "logistic",
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """A k-hot of k classes drawn one after the other, without replacement (Gumbel top-k).

    Forward: the k-hot of the k largest of `logits + G`, G standard Gumbels: the first class is
    drawn from `softmax(logits)`, the next from that of the others, and so on, the law of Plackett
    and Luce. Backward: that of `st.topk(logits + G, k, relaxation)`, G made again.

    Args:
        logits: `(..., C)` unnormalised log-probabilities, C along `dim`; floating.
        k: how many, 1 <= k <= C.
        relaxation: a `Relaxation` or its shorthand, as for `st.topk`.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the relaxation's fields, as `tau=0.5`.

    Returns:
        A tensor of the shape, dtype and device of `logits`, exactly k ones along `dim`.

    Raises:
        DtypeError: if the logits are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if k lies outside 1..C, the relaxation or a field is unknown, `tau` is not
            above 0, or both `seed` and `generator` are given.

    Edge cases: a row with NaN or +infinity, or with fewer than k classes above -infinity, gives a
    NaN row (in `st.strict()` an error).

    Higher order: that of the relaxation, the noise held; forward mode works.

    Cost: a Gumbel a class, in backward once more; the logits and the seed are saved.

    Example:
        >>> z = st.sample_topk(torch.zeros(2, 5), 3, seed=0)
        >>> z.sum(-1)
        tensor([3., 3.])

    References:
        Kool, van Hoof, Welling, "Stochastic beams and where to find them: the Gumbel-top-k trick
        for sampling sequences without replacement", 2019.
    """
    rows, k, dim = subset_rows("logits", logits, k, dim, mask, "relaxation")
    rule = resolve("relaxation", relaxation, Relaxation, fields=fields)
    value, place = make_seed(seed, generator, logits)
    y = apply(PerturbedTopK(k, rule, place), rows, value)
    check_outcomes("sample_topk", lambda: y[..., 0].isnan())
    return y if dim == -1 else y.movedim(-1, dim)


@operator(
    outcome=KHot(),
    expected=specification.marginals,
    gradient=specification.estimated_gradient,
    rule="estimator",
    fits=(SubsetEstimator,),
    default=Simple(),
    saved_bytes=lambda rule, logits: logits.nbytes + (logits.numel() + 7) // 8,
    forward_mode=False,
    **_OF_LOGITS,
)
def sample_subset(
    logits: Tensor,
    k: int,
    estimator: SubsetEstimator | str = "simple",
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """A k-hot drawn exactly from `p(z) ~ exp(<z, logits>)`, with an estimator's gradient.

    Forward: z with probability `exp(<z, logits>) / Z` among all of k ones, the law of independent
    entries of odds `exp(logits)` given that k are 1. Backward:
    `dL/dlogits = estimator.vjp(logits, z, dL/dz)`.

    Args:
        logits: `(..., C)` log-odds, up to a constant, C along `dim`; floating.
        k: how many, 1 <= k <= C.
        estimator: a `SubsetEstimator` or its shorthand: `"simple"`, or `"second_order"`.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields.

    Returns:
        A tensor of the shape, dtype and device of `logits`, exactly k ones along `dim`.

    Raises:
        DtypeError: if the logits are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if k lies outside 1..C, the estimator or a field is unknown, or both `seed`
            and `generator` are given.

    Edge cases: a row with NaN or +infinity, or with fewer than k classes above -infinity, gives a
    NaN row (in `st.strict()` an error).

    Higher order: double backward differentiates the estimator's formula, the outcome held; forward
    mode raises.

    Cost: O(C k) work in log2 C steps, in float64 and without a logarithm, one uniform a node of a
    tree; the logits and one bit an entry are saved. `st.sample_topk`, which is cheaper where no
    kernel serves, draws from another law unless k = 1 or all logits are equal.

    Example:
        >>> logits = torch.zeros(2, 5, requires_grad=True)
        >>> z = st.sample_subset(logits, 3, seed=0)
        >>> z.sum(-1).tolist()
        [3.0, 3.0]
        >>> (z * torch.tensor([10.0, 0.0, 0.0, 0.0, 0.0])).sum().backward()
        >>> logits.grad[0]
        tensor([ 2.4000, -0.6000, -0.6000, -0.6000, -0.6000])

    References:
        Chen, Dempster, Liu, "Weighted finite population sampling to maximize entropy", 1994. Ahmed,
        Zeng, Niepert, Van den Broeck, "SIMPLE: a gradient estimator for k-subset sampling", 2023.
    """
    rows, k, dim = subset_rows("logits", logits, k, dim, mask, "estimator")
    rule = resolve("estimator", estimator, SubsetEstimator, fields=fields)
    value, place = make_seed(seed, generator, logits)
    y = apply(SubsetDraw(k, rule, place), rows, value)
    check_outcomes("sample_subset", lambda: y[..., 0].isnan())
    return y if dim == -1 else y.movedim(-1, dim)
