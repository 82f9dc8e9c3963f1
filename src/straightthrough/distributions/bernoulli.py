"""0 or 1."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import register_kl
from torch.distributions.utils import broadcast_all, lazy_property, probs_to_logits

from ..core.errors import check_floating
from ..core.precision import compute_dtype
from ..core.registry import resolve
from ..core.rules import Derivative
from ..estimators import CategoricalEstimator
from ..ops.bernoulli.api import bernoulli
from .base import HardSampling, largest_of, of_probs


class Bernoulli(HardSampling, torch.distributions.Bernoulli):
    """`torch.distributions.Bernoulli` with an `rsample` that is `st.bernoulli`.

    Forward: 0 or 1. Backward: the estimator's, to the parameter that was given. `sample` draws
    the same without a gradient, `expand` keeps the estimator and the hardness, and `log_prob`
    (differentiable in the value too), KL divergences, entropy, moments and enumeration are
    torch's, but where a logit is infinite: there torch has NaN, or a gradient of NaN. The
    divergence from finite logits is finite, also where these round to certainty, and the logits of
    probabilities in half precision are computed in float32; torch's stop at 4.8 in bfloat16.

    Args:
        probs: any shape; the probability of a 1; exactly one of the two.
        logits: any shape; the log-odds of a 1; floating.
        estimator: a `CategoricalEstimator`, a surrogate, or a shorthand of either.
        validate_args: as in torch.

    Raises:
        DtypeError: if the parameter is a tensor and not floating.
        ArgumentError: if the estimator is unknown or, validated, a probability is outside [0, 1].
        ValueError: if not exactly one parameter is given or, validated, one is NaN.

    Edge cases: p = 0 and p = 1, and logits of -infinity and +infinity, are certain: by such a logit
    the `log_prob` of what is certain and the entropy are 0, that of the other value is -infinity.

    Higher order: as `st.bernoulli`.

    Cost: as `st.bernoulli`. A sample shape is drawn in one call; the seed is taken from torch's
    default generator.

    Example:
        >>> p = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
        >>> q = st.distributions.Bernoulli(p, estimator="identity").expand((4, 3))
        >>> b = q.rsample()
        >>> b[:, 0].tolist(), b[:, 2].tolist()
        ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0])
        >>> b.sum().backward()
        >>> p.grad
        tensor([4., 4., 4.])
    """

    estimator: CategoricalEstimator | Derivative

    def __init__(
        self,
        probs: Tensor | float | None = None,
        logits: Tensor | float | None = None,
        estimator: CategoricalEstimator | Derivative | str = "reinmax",
        validate_args: bool | None = None,
    ) -> None:
        self.estimator = resolve("estimator", estimator, CategoricalEstimator, Derivative)
        for name, given in (("probs", probs), ("logits", logits)):
            if isinstance(given, Tensor):
                check_floating(name, given)
        self._of_probs = probs is not None
        self._check_probs(probs, 1.0, validate_args)
        super().__init__(probs, logits, validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Bernoulli:
        new = self._keep(self._get_checked_instance(Bernoulli, _instance))
        return super().expand(batch_shape, _instance=new)

    @lazy_property
    def logits(self) -> Tensor:
        wide = self.probs.to(compute_dtype(self.probs.dtype))
        return probs_to_logits(wide, is_binary=True).to(self.probs.dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        if self._of_probs:
            return bernoulli(probs=self.probs.expand(shape), estimator=self.estimator)
        return bernoulli(self.logits.expand(shape), estimator=self.estimator)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits, value = broadcast_all(self.logits, value)
        value = value if value.is_floating_point() else value.to(logits.dtype)
        found = -F.binary_cross_entropy_with_logits(_finite(logits), value, reduction="none")
        return found.masked_fill(logits.isinf() & (value != (logits > 0)), -math.inf)

    def entropy(self) -> Tensor:
        logits, probs = self._wide()
        found = F.binary_cross_entropy_with_logits(_finite(logits), probs, reduction="none")
        return found.to(self.logits.dtype)

    def _wide(self) -> tuple[Tensor, Tensor]:
        """Return the logits and the probabilities, of half precision in float32.

        In bfloat16 a probability is rounded to 1 from a logit of 6.3 on.
        """
        dtype = compute_dtype(self.logits.dtype)
        if dtype == self.logits.dtype:
            return self.logits, self.probs
        logits = self.logits.to(dtype)
        return logits, self.probs.to(dtype) if self._of_probs else torch.sigmoid(logits)


@register_kl(Bernoulli, torch.distributions.Bernoulli)  # type: ignore[untyped-decorator]  # torch's
def _divergence(p: Bernoulli, q: torch.distributions.Bernoulli) -> Tensor:
    """Return torch's, with a gradient of 0 to a logit that is infinite.

    It is finite where the other's logits are, and torch's not where these round to certainty.
    """
    logits, probs = p._wide()
    ours, other = _finite(logits), _finite(q.logits).to(compute_dtype(q.logits.dtype))
    given, zero, one = (q.probs, 0, 1) if of_probs(q) else (q.logits, -math.inf, math.inf)
    ones = probs * (F.softplus(-other) - F.softplus(-ours))
    zeros = (1 - probs) * (F.softplus(other) - F.softplus(ours))
    ones = ones.masked_fill(given == zero, math.inf).masked_fill(probs == 0, 0)
    zeros = zeros.masked_fill(given == one, math.inf).masked_fill(probs == 1, 0)
    return (ones + zeros).to(torch.promote_types(p.logits.dtype, q.logits.dtype))


def _finite(logits: Tensor) -> Tensor:
    """Return the logits, those that are infinite as numbers that decide as surely."""
    most = largest_of(logits.dtype)
    return logits.nan_to_num(nan=math.nan, posinf=most, neginf=-most)
