"""Binary operators as modules, and a layer of gates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.engine import apply
from ..core.errors import (
    NO_PROBABILITY,
    ArgumentError,
    check_flag,
    check_limit,
    check_number,
    check_outcomes,
)
from ..core.precision import compute_dtype, in_compute_dtype
from ..core.rules import Derivative
from ..core.straight_through import straight_through
from ..estimators import CategoricalEstimator, GumbelST
from ..ops.bernoulli import api
from ..ops.bernoulli.reference import logit
from ..ops.pointwise.operation import Pointwise
from ..surrogates import Identity, Sigmoid
from .base import EstimatorModule, Number, RuleModule, check_parameter
from .checked import Checks


class Bernoulli(EstimatorModule[CategoricalEstimator | Derivative]):
    """`st.bernoulli` as a module; in `eval()` 1 where the probability is above 1/2.

    In eager code on the CPU a probability outside [0, 1] raises; elsewhere it gives NaN.

    Args:
        estimator: a `CategoricalEstimator`, a `Derivative`, or a shorthand of either.
        fields: numbers or schedules for its fields.

    Example:
        >>> st.nn.Bernoulli().eval()(torch.tensor([-1.0, 2.0]))
        tensor([0., 1.])
    """

    def __init__(
        self, estimator: CategoricalEstimator | Derivative | str = "reinmax", **fields: Number
    ) -> None:
        super().__init__(estimator, (CategoricalEstimator, Derivative), fields)

    def forward(self, logits: Tensor | None = None, *, probs: Tensor | None = None) -> Tensor:
        check_parameter("probs", probs, "logits", logits, most=1)
        if self.training:
            return api.bernoulli(logits, probs=probs, estimator=self.rule)
        return _likelier("bernoulli", logits, probs)


class BinaryConcrete(RuleModule[GumbelST]):
    """`st.binary_concrete` as a module.

    In `eval()` it is `sigmoid(logits / tau)`, with `hard=True` 1 where the probability is above
    1/2, with the gradient of that sigmoid. In eager code on the CPU a probability outside [0, 1]
    raises; elsewhere it gives NaN.

    Args:
        tau: temperature, a number or a schedule.
        hard: whether the value is 0 or 1.

    Example:
        >>> st.nn.BinaryConcrete(tau=0.5).eval()(probs=torch.tensor([0.5]))
        tensor([0.5000])
    """

    tau: Number
    hard: bool
    numbers: ClassVar[Checks] = {"hard": check_flag}

    def __init__(self, tau: Number = 1.0, hard: bool = False) -> None:
        super().__init__("estimator", GumbelST(), (GumbelST,), {"tau": tau})
        self.hard = hard

    def forward(self, logits: Tensor | None = None, *, probs: Tensor | None = None) -> Tensor:
        check_parameter("probs", probs, "logits", logits, most=1)
        tau = self.rule.tau
        if self.training:
            return api.binary_concrete(logits, probs=probs, tau=tau, hard=self.hard)
        x, of_probs = api.parameter(logits, probs)
        y = in_compute_dtype(_relaxed_probability if of_probs else _relaxed, x, tau)
        check_outcomes("binary_concrete", lambda: y.isnan(), NO_PROBABILITY)
        if not self.hard:
            return y
        likely = (x > (0.5 if of_probs else 0)).to(y.dtype)
        return straight_through(torch.where(y.isnan(), y, likely), y)

    def extra_repr(self) -> str:
        return f"tau={self.rule.tau}, hard={self.hard}"


def _relaxed(logits: Tensor, tau: Any) -> Tensor:
    return torch.sigmoid(logits / tau)


def _relaxed_probability(p: Tensor, tau: Any) -> Tensor:
    """Likewise, of a probability; 0 and 1 are certain, with a gradient of 0 as in training."""
    certain = (p == 0) | (p == 1)
    return torch.where(certain, p.detach(), _relaxed(logit(torch.where(certain, 0.5, p)), tau))


def _likelier(name: str, logits: Tensor | None, probs: Tensor | None) -> Tensor:
    """1 where the probability is above 1/2, with its gradient; NaN where there is none."""
    x, of_probs = api.parameter(logits, probs)
    if of_probs:
        x = torch.where((x >= 0) & (x <= 1), x, torch.nan)
    threshold, surrogate = (0.5, Identity()) if of_probs else (0.0, Sigmoid(1.0))
    y = apply(Pointwise("heaviside", (threshold,), surrogate, threshold), x)
    check_outcomes(name, lambda: y.isnan(), NO_PROBABILITY)
    return y


def _check_probability(name: str, value: object) -> Any:
    probability = check_number(name, value)
    if not 0 < probability < 1:
        raise ArgumentError(f"{name} must lie in (0, 1), got {value}")
    return probability


def _check_low(name: str, value: object) -> Any:
    return api.check_stretch(value, 2.0)[0]


def _check_high(name: str, value: object) -> Any:
    return api.check_stretch(-1.0, value)[1]


class HardConcreteGate(RuleModule[GumbelST]):
    """A tensor of hard concrete gates with logits of its own: multiply by it what may go.

    In training the gates are `st.hard_concrete(logits)`. In `eval()` they are free of noise:
    `st.hard_concrete_mean(logits)`, with `hard=True` 1 where `logits > 0`.

    Args:
        shape: of the gates, an int or several.
        probs: the probability of an open gate at the start, in (0, 1).
        tau: temperature, a number or a schedule.
        gamma, zeta: the stretch, gamma < 0 and zeta > 1, numbers or schedules.
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

    tau: Number
    gamma: Number
    zeta: Number
    probs: float
    hard: bool
    numbers: ClassVar[Checks] = {
        "probs": _check_probability,
        "gamma": _check_low,
        "zeta": _check_high,
        "hard": check_flag,
    }

    def __init__(
        self,
        shape: int | Sequence[int],
        probs: float = 0.5,
        *,
        tau: Number = 2 / 3,
        gamma: Number = -0.1,
        zeta: Number = 1.1,
        hard: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__("estimator", GumbelST(), (GumbelST,), {"tau": tau})
        self.probs, self.gamma, self.zeta, self.hard = probs, gamma, zeta, hard
        given = tuple(shape) if isinstance(shape, Iterable) else (shape,)
        size = tuple(check_limit("shape", length) for length in given)
        self.logits = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Put every gate back to the probability it started with."""
        probs = self.number("probs")
        nn.init.constant_(self.logits, math.log(probs) - math.log1p(-probs))

    def forward(self) -> Tensor:
        if not self.training:
            return _likelier("hard_concrete", self.logits, None) if self.hard else self.mean()
        return api.hard_concrete(self.logits, tau=self.rule.tau, **self._stretch(), hard=self.hard)

    def mean(self) -> Tensor:
        """Return the gates without noise, `st.hard_concrete_mean(logits)`."""
        return api.hard_concrete_mean(self.logits, **self._stretch())

    def l0(self) -> Tensor:
        """Return the expected number of gates that are not 0, a differentiable 0-d tensor.

        It is the sum of `st.l0_norm(logits)`; of `sigmoid(logits)` with `hard=True`, as a hard
        gate is open with just that probability. Half precision is summed to float32.
        """
        logits = self.logits.to(compute_dtype(self.logits.dtype))
        if self.hard:
            return torch.sigmoid(logits).sum()
        return api.l0_norm(logits, tau=self.rule.tau, **self._stretch()).sum()

    def _stretch(self) -> dict[str, Any]:
        return {"gamma": self.number("gamma"), "zeta": self.number("zeta")}

    def extra_repr(self) -> str:
        return (
            f"{tuple(self.logits.shape)}, probs={self.probs}, tau={self.rule.tau}, "
            f"gamma={self.gamma}, zeta={self.zeta}, hard={self.hard}"
        )
