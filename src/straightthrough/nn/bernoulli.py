"""Binary operators as modules, and a layer of gates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.engine import apply
from ..core.errors import ArgumentError, check_number
from ..core.precision import cast
from ..core.rules import Derivative
from ..estimators import Estimator, GumbelST
from ..ops.bernoulli import api
from ..ops.pointwise.operation import Pointwise
from ..surrogates import Identity, Sigmoid
from .base import Number, RuleModule


class Bernoulli(RuleModule[Estimator | Derivative]):
    """`st.bernoulli` as a module; in `eval()` 1 where the probability is above 1/2.

    Args:
        estimator: an `Estimator`, a `Derivative`, or a shorthand of either.
        fields: numbers or schedules for its fields.

    Example:
        >>> st.nn.Bernoulli().eval()(torch.tensor([-1.0, 2.0]))
        tensor([0., 1.])
    """

    def __init__(
        self, estimator: Estimator | Derivative | str = "reinmax", **fields: Number
    ) -> None:
        super().__init__("estimator", estimator, (Estimator, Derivative), fields)

    def forward(self, logits: Tensor | None = None, *, probs: Tensor | None = None) -> Tensor:
        if self.training:
            return api.bernoulli(logits, probs=probs, estimator=self.rule)
        return _likelier(logits, probs)


class BinaryConcrete(RuleModule[GumbelST]):
    """`st.binary_concrete` as a module.

    In `eval()` it is `sigmoid(logits / tau)`, with `hard=True` 1 where the probability is above
    1/2.

    Args:
        tau: temperature, a number or a schedule.
        hard: whether the value is 0 or 1.

    Example:
        >>> st.nn.BinaryConcrete(tau=0.5).eval()(probs=torch.tensor([0.5]))
        tensor([0.5000])
    """

    def __init__(self, tau: Number = 1.0, hard: bool = False) -> None:
        super().__init__("estimator", GumbelST(), (GumbelST,), {"tau": tau})
        self.hard = hard

    def forward(self, logits: Tensor | None = None, *, probs: Tensor | None = None) -> Tensor:
        tau = self.rule.tau
        if self.training:
            return api.binary_concrete(logits, probs=probs, tau=tau, hard=self.hard)
        if self.hard:
            return _likelier(logits, probs)
        x, of_probs = api.parameter(logits, probs)
        return torch.sigmoid((torch.logit(x) if of_probs else x) / cast(tau, x.dtype))

    def extra_repr(self) -> str:
        return f"tau={self.rule.tau}, hard={self.hard}"


def _likelier(logits: Tensor | None, probs: Tensor | None) -> Tensor:
    """1 where the probability is above 1/2, with its gradient; NaN stays NaN."""
    x, of_probs = api.parameter(logits, probs)
    threshold, surrogate = (0.5, Identity()) if of_probs else (0.0, Sigmoid(1.0))
    return apply(Pointwise("heaviside_or_nan", (threshold,), surrogate, threshold), x)


class HardConcreteGate(RuleModule[GumbelST]):
    """A tensor of hard concrete gates with logits of its own: multiply by it what may go.

    In training the gates are `st.hard_concrete(logits)`. In `eval()` they are free of noise:
    `st.hard_concrete_mean(logits)`, with `hard=True` 1 where `logits > 0`.

    Args:
        shape: of the gates, an int or several.
        probs: the probability of an open gate at the start, in (0, 1).
        tau: temperature, a number or a schedule.
        gamma, zeta: the stretch, gamma < 0 and zeta > 1.
        hard: whether the gates are 0 or 1.
        device, dtype: of the logits.

    Attributes:
        logits: the parameter, of that shape; the log-odds of an open gate.

    Example:
        >>> gate = st.nn.HardConcreteGate(10, probs=0.9, hard=True)
        >>> weight = torch.randn(5, 10)
        >>> (weight * gate()).shape, round(gate.l0().item(), 4)
        (torch.Size([5, 10]), 9.0)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        probs: float = 0.5,
        *,
        tau: Number = 2 / 3,
        gamma: float = -0.1,
        zeta: float = 1.1,
        hard: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__("estimator", GumbelST(), (GumbelST,), {"tau": tau})
        check_number("probs", probs)
        if not 0 < probs < 1:
            raise ArgumentError(f"probs must lie in (0, 1), got {probs}")
        self.probs, self.gamma, self.zeta, self.hard = probs, gamma, zeta, hard
        size = (shape,) if isinstance(shape, int) else tuple(shape)
        self.logits = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put every gate back to the probability it started with."""
        nn.init.constant_(self.logits, math.log(self.probs) - math.log1p(-self.probs))

    def forward(self) -> Tensor:
        if not self.training:
            return _likelier(self.logits, None) if self.hard else self.mean()
        return api.hard_concrete(
            self.logits, tau=self.rule.tau, gamma=self.gamma, zeta=self.zeta, hard=self.hard
        )

    def mean(self) -> Tensor:
        """Return the gates without noise, `st.hard_concrete_mean(logits)`."""
        return api.hard_concrete_mean(self.logits, gamma=self.gamma, zeta=self.zeta)

    def l0(self) -> Tensor:
        """Return the expected number of gates that are not 0, a differentiable 0-d tensor.

        It is the sum of `st.l0_norm(logits)`; of `sigmoid(logits)` with `hard=True`, as a hard
        gate is open with just that probability.
        """
        if self.hard:
            return torch.sigmoid(self.logits).sum()
        tau = self.rule.tau
        return api.l0_norm(self.logits, tau=tau, gamma=self.gamma, zeta=self.zeta).sum()

    def extra_repr(self) -> str:
        return (
            f"{tuple(self.logits.shape)}, tau={self.rule.tau:.4g}, gamma={self.gamma}, "
            f"zeta={self.zeta}, hard={self.hard}"
        )
