"""0 or 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.registry import resolve
from ..core.rules import Derivative
from ..estimators import CategoricalEstimator
from ..ops.bernoulli.api import bernoulli
from .base import HardSampling


class Bernoulli(HardSampling, torch.distributions.Bernoulli):
    """`torch.distributions.Bernoulli` with an `rsample` that is `st.bernoulli`.

    Forward: 0 or 1. Backward: the estimator's, to the parameter that was given. `sample` draws
    the same without a gradient, `expand` keeps the estimator and the hardness, and `log_prob`
    (differentiable in the value too), KL divergences, entropy, moments and enumeration are
    torch's.

    Args:
        probs: any shape; the probability of a 1; exactly one of the two.
        logits: any shape; the log-odds of a 1; floating.
        estimator: a `CategoricalEstimator`, a surrogate, or a shorthand of either.
        validate_args: as in torch.

    Raises:
        ArgumentError: if the estimator is unknown or, validated, a probability is outside [0, 1].
        ValueError: if not exactly one parameter is given or, validated, one is NaN.

    Edge cases: p = 0 and p = 1 are certain.

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
        self._of_probs = probs is not None
        self._check_probs(probs, 1.0, validate_args)
        super().__init__(probs, logits, validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Bernoulli:
        new = self._keep(self._get_checked_instance(Bernoulli, _instance))
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        if self._of_probs:
            return bernoulli(probs=self.probs.expand(shape), estimator=self.estimator)
        return bernoulli(self.logits.expand(shape), estimator=self.estimator)
