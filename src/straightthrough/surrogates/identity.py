"""The straight-through estimator proper: the gradient passes unchanged."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.registry import rule
from ..core.rules import Derivative, Saved, saves


@rule("identity")
@dataclass(frozen=True)
class Identity(Derivative):
    """Pass the gradient unchanged: `derivative(x) = 1`, `primitive(x) = x`.

    Nothing is saved for backward, and `x` is not looked at: where it is NaN the derivative is 1, as
    that of `x + 0` is. The value is NaN there, and so is the gradient of a loss that depends on it.

    References:
        Bengio, Leonard, Courville, "Estimating or propagating gradients through stochastic
        neurons for conditional computation", 2013, section 4.

    Example:
        >>> st.surrogates.Identity().derivative(torch.tensor([-3.0, 0.5]))
        tensor([1., 1.])
    """

    @saves(Saved.NOTHING)
    def derivative(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def primitive(self, x: Tensor) -> Tensor:
        return x
