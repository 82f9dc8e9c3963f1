"""One-hots of one of C classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import register_kl
from torch.distributions.utils import probs_to_logits

from ..core.errors import check_floating
from ..core.precision import compute_dtype
from ..core.registry import resolve
from ..estimators import CategoricalEstimator
from ..ops.categorical.api import categorical
from .base import HardSampling, largest_of, of_probs


class OneHotCategorical(HardSampling, torch.distributions.OneHotCategorical):
    """`torch.distributions.OneHotCategorical` with an `rsample` that is `st.categorical`.

    Forward: a one-hot, drawn exactly from the probabilities. Backward: the estimator's, to the
    parameter that was given. `sample` draws the same without a gradient, `expand` keeps the
    estimator, and KL divergences, entropy, moments and enumeration are torch's, whose gradients
    are NaN where a logit is -infinity; these are not.

    `log_prob(value) = <value, logits>`, logits normalised: torch's number at a one-hot, and
    differentiable in it as well, which torch's is not. An evidence lower bound needs that of
    the prior too: write the prior with this class.

    Args:
        probs: `(..., C)`, not negative, normalised along C; exactly one of the two.
        logits: `(..., C)` unnormalised log-probabilities; floating.
        estimator: a `CategoricalEstimator` or its shorthand, e.g. `"gumbel"`.
        validate_args: as in torch.

    Raises:
        DtypeError: if the parameter is not floating.
        ArgumentError: if the estimator is unknown or, validated, a probability is negative.
        ValueError: if not exactly one parameter is given or, validated, one is NaN.

    Edge cases: a class of probability 0 is never drawn; in `probs` its gradient is 0. Half
    precision is drawn from as it is given, and its logits are computed in float32: torch rounds
    what all share to half, and takes a probability below 1/128 in bfloat16 for that. The divergence
    from finite logits is finite, also where their probabilities are rounded to 0.

    Higher order: as `st.categorical`.

    Cost: as `st.categorical`. A sample shape is drawn in one call; the seed is taken from
    torch's default generator.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)
        >>> q = st.distributions.OneHotCategorical(logits=logits, estimator="reinmax")
        >>> z = q.rsample((5,))
        >>> z.shape, z.sum(-1).unique().tolist()
        (torch.Size([5, 2, 3]), [1.0])
        >>> (z @ torch.tensor([1.0, 2.0, 4.0])).sum().backward()
        >>> logits.grad.shape
        torch.Size([2, 3])
    """

    estimator: CategoricalEstimator
    _given: Tensor

    def __init__(
        self,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        estimator: CategoricalEstimator | str = "reinmax",
        validate_args: bool | None = None,
    ) -> None:
        self.estimator = resolve("estimator", estimator, CategoricalEstimator)
        for name, given in (("probs", probs), ("logits", logits)):
            if given is not None:
                check_floating(name, given)
        self._of_probs = probs is not None
        self._check_probs(probs, math.inf, validate_args)
        self._given = logits if probs is None else probs  # type: ignore[assignment]  # torch refuses none
        if logits is not None and compute_dtype(logits.dtype) != logits.dtype and logits.ndim:
            logits = logits.log_softmax(-1).to(logits.dtype)
        super().__init__(probs, logits, validate_args)
        if probs is not None and compute_dtype(probs.dtype) != probs.dtype:
            wide = self.probs.to(compute_dtype(probs.dtype))
            self._categorical.logits = probs_to_logits(wide).to(probs.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> OneHotCategorical:
        new = self._keep(self._get_checked_instance(OneHotCategorical, _instance))
        new._given = self._given.expand(*batch_shape, *self.event_shape)
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        logits = _log(self._given) if self._of_probs else self._given
        z = categorical(logits.expand(self._extended_shape(sample_shape)), self.estimator)
        return z.to(self._param.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits
        # 0 times -infinity is NaN. That is the gradient to the value, which is scaled on its way.
        impossible = (value == 0) & (logits == -math.inf)
        return (value * logits.masked_fill(impossible, -largest_of(logits.dtype))).sum(-1)

    def entropy(self) -> Tensor:
        return -(self.probs * self.logits.masked_fill(self.logits == -math.inf, 0)).sum(-1)


@register_kl(OneHotCategorical, torch.distributions.OneHotCategorical)  # type: ignore[untyped-decorator]  # torch's
def _divergence(p: OneHotCategorical, q: torch.distributions.OneHotCategorical) -> Tensor:
    """Return torch's, with a gradient of 0 to a logit of -infinity.

    It is finite where the other's logits are, and torch's not where these round to certainty.
    """
    possible = p.probs > 0
    never = q.probs == 0 if of_probs(q) else q.logits == -math.inf
    terms = p.probs * torch.where(possible, p.logits - q.logits, 0)
    return terms.masked_fill(possible & never, math.inf).sum(-1)


def _log(probs: Tensor) -> Tensor:
    """Return the logarithm, -infinity at 0 with a gradient of 0; torch's is that of an epsilon.

    Of half precision it is in float32: in bfloat16 that of 1/1000 would be off by up to 1/64.
    """
    impossible = probs == 0
    wide = torch.where(impossible, 1, probs).to(compute_dtype(probs.dtype))
    return wide.log().masked_fill(impossible, -math.inf)
