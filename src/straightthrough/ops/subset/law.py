"""The law of a drawn subset: marginals, log-probability, entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import ShapeError, check_floating, check_outcomes, check_rows
from ...estimators.exactly_k import Cumulant, LogPartition
from ...estimators.subset import count_of
from ...relaxations.level import FAR
from .rows import subset_rows


def subset_marginals(
    logits: Tensor, k: int, *, dim: int = -1, mask: Tensor | None = None
) -> Tensor:
    """How likely each class is in a subset of k drawn from `p(z) ~ exp(<z, logits>)`.

    Value: `mu = E[z]` over all z of k ones, exactly: what `st.sample_subset` is on average.

    Args:
        logits: `(..., C)` log-odds, up to a constant, C along `dim`; floating.
        k: how many, 1 <= k <= C.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.

    Returns:
        A tensor of the shape, dtype and device of `logits`, from 0 to 1, with sums of k.

    Raises:
        DtypeError: if the logits are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if k lies outside 1..C.

    Edge cases: a row with NaN or +infinity, or with fewer than k classes above -infinity, gives a
    NaN row (in `st.strict()` an error). Of k allowed classes each has 1.

    Higher order: every derivative, in both modes: the covariance, the third cumulant, and so on.

    Cost: O(C k) work in log2 C steps, in float64; each derivative about three times the one before.

    Example:
        >>> st.subset_marginals(torch.tensor([0.3, 0.6, 0.5, 0.2]).logit(), 2)
        tensor([0.3568, 0.7622, 0.6595, 0.2216])

    References:
        Chen, Dempster, Liu, "Weighted finite population sampling to maximize entropy", 1994.
    """
    rows, k, dim = subset_rows("logits", logits, k, dim, mask)
    mu: Tensor = apply(Cumulant(k), rows)
    check_outcomes("subset_marginals", lambda: mu[..., 0].isnan())
    return mu if dim == -1 else mu.movedim(-1, dim)


def subset_log_prob(
    logits: Tensor,
    value: Tensor,
    *,
    k: int | None = None,
    dim: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """The log-probability of a subset under `p(z) ~ exp(<z, logits>)`, `|z| = k`.

    Value: `<value, logits> - log Z`, Z the sum of `exp(<z, logits>)` over all z of k ones.

    Args:
        logits: `(..., C)` log-odds, up to a constant, C along `dim`; floating.
        value: a k-hot of that shape, floating.
        k: how many ones each row of `value` has; read from it unless given. Compiled code and the
            transforms of `torch.func`, which can't read it, need it given.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.

    Returns:
        The log-probabilities, of the logits' dtype and of their shape without `dim`.

    Raises:
        DtypeError: if the logits or the value are not floating or the mask is not bool.
        ShapeError: if the value has another shape, `dim` or the mask's shape does not fit, or there
            is no class.
        ArgumentError: if `value` is no k-hot, or its rows differ in k; with a k given it is not
            read, and only a k outside 1..C is refused.

    Edge cases: that of a value with a class at -infinity is -infinity; a row without an outcome, as
    in `st.sample_subset`, gives NaN (in `st.strict()` an error).

    Higher order: every derivative to the logits, in both modes; the first is `value - mu`. That to
    the value is the logits, up to a number a row, as a bound on the evidence needs it where the
    value is drawn.

    Cost: that of half of `st.subset_marginals`; a derivative that of the other half.

    Example:
        >>> logits = torch.zeros(4)
        >>> st.subset_log_prob(logits, torch.tensor([1.0, 0.0, 1.0, 0.0])).exp()
        tensor(0.1667)
    """
    check_rows("logits", logits, dim)
    check_floating("value", value)
    if value.shape != logits.shape:
        raise ShapeError(
            f"value must have the shape {tuple(logits.shape)} of logits, got {tuple(value.shape)}"
        )
    if k is None:
        k = count_of(logits.movedim(dim, -1), value.movedim(dim, -1))
    rows, k, dim = subset_rows("logits", logits, k, dim, mask)
    near, beyond = centred(rows, k)
    z = value.movedim(dim, -1)
    # 0 times -infinity is NaN. That is the gradient to the value, which is scaled on its way.
    least = -math.sqrt(torch.finfo(value.dtype).max)
    held = near.masked_fill((z == 0) & (near == -math.inf), least)
    score = (z * held - (1 - z) * beyond).sum(-1)
    found: Tensor = (score - apply(LogPartition(k), near)).to(logits.dtype)
    check_outcomes("subset_log_prob", found.isnan)
    return found


def subset_entropy(logits: Tensor, k: int, *, dim: int = -1, mask: Tensor | None = None) -> Tensor:
    """The entropy of a subset drawn from `p(z) ~ exp(<z, logits>)`, `|z| = k`, in nats.

    Value: `log Z - <mu, logits>`, mu the marginals: from 0 to the logarithm of C choose k.

    Args:
        logits: `(..., C)` log-odds, up to a constant, C along `dim`; floating.
        k: how many, 1 <= k <= C.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.

    Returns:
        The entropies, of the logits' dtype and of their shape without `dim`.

    Raises:
        DtypeError: if the logits are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if k lies outside 1..C.

    Edge cases: a row without an outcome, as in `st.sample_subset`, gives NaN (in `st.strict()` an
    error). Of k allowed classes it is 0.

    Higher order: every derivative, in both modes; the first is `-C logits`, C the covariance.

    Cost: one and a half times that of `st.subset_marginals`.

    Example:
        >>> st.subset_entropy(torch.zeros(4), 2).exp()
        tensor(6.)
    """
    rows, k, _ = subset_rows("logits", logits, k, dim, mask)
    near, _ = centred(rows, k)
    mu, total = apply(Cumulant(k), near), apply(LogPartition(k), near)
    found: Tensor = (total - (mu * near.masked_fill(near.isinf(), 0)).sum(-1)).to(logits.dtype)
    check_outcomes("subset_entropy", found.isnan)
    return found


def centred(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the rows in float64, less their k-th largest, cut off at `FAR`; and what was cut off.

    The law is the same, and what all logits of a row share, as the -1e30 of a row of padding,
    takes no digits from sums of them. Neither does what lies beyond `FAR`, as all that is not
    padding where that is fewer than k: such a class is in every subset, up to a probability of
    `exp(-FAR)`, and a subset without it is less likely by all that was cut off.
    """
    wide = rows.double()
    wide = wide - wide.detach().topk(k, -1).values[..., -1:]
    far = (wide > FAR) & ~wide.isinf()
    return torch.where(far, FAR, wide), torch.where(far, wide - FAR, 0)
