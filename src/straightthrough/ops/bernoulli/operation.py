"""Binary operators: every forward with its backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.noise import Noise, Place
from ...core.operation import Draw, RuledDraw
from ...core.precision import cast, narrowed
from ...core.rules import Derivative, Saved
from ...estimators.categorical import CategoricalEstimator
from ...relaxations.jacobian import is_one
from .reference import as_logits, binary_draw, concrete, concrete_backward, logit_slope


@dataclass
class BinaryDraw(RuledDraw):
    """A 0/1 draw forward, the estimator backward; `x` is a probability or its logit."""

    name = "st.bernoulli"
    dims = ("...",)

    rule: CategoricalEstimator
    place: Place
    of_probs: bool

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        noise = Noise(seed, *self.place)
        tau = self.rule.tau_forward
        if is_one(tau):
            return binary_draw(x, self.of_probs, noise)
        logits = as_logits(x, self.of_probs)
        y, outcome = binary_draw(logits / cast(tau, logits.dtype), False, noise)
        return y.to(x.dtype), outcome

    def backward(
        self, grad: Tensor, x: Tensor, outcome: Tensor, *seed: Tensor
    ) -> tuple[Tensor, None]:
        rule, noise = self.rule, self.noise(seed)
        if not self.of_probs:
            return rule.binary_backward(x, outcome, grad, noise), None

        def pulled(x: Tensor) -> Tensor:
            logits = as_logits(x, self.of_probs)
            gradient = rule.binary_backward(logits, outcome, grad.to(logits.dtype), noise)
            to_probs = gradient * logit_slope(x.to(logits.dtype))
            return narrowed(to_probs, x.dtype, infinite=gradient)

        return _but_for_certain(pulled, x), None


@dataclass
class SurrogateDraw(Draw):
    """The same draw forward, a surrogate's derivative at the parameter backward."""

    name = "st.bernoulli"
    dims = ("...",)

    rule: Derivative
    place: Place
    of_probs: bool

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        return binary_draw(x, self.of_probs, Noise(seed, *self.place))

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return () if self.rule.saved is Saved.NOTHING else inputs[:1]

    def carrier(self, x: Tensor, seed: Tensor) -> Tensor | None:
        return x if self.rule.saved is Saved.NOTHING else None

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor, None]:
        return self.rule.backward(saved[0], grad) if saved else grad, None


@dataclass
class Concrete(Draw):
    """The (hard) concrete gate, its noise made again in backward.

    Backward is that of the soft value, whether the value is hard or soft.
    """

    dims = ("...",)

    tau: float
    gamma: float
    zeta: float
    hard: bool
    of_probs: bool
    place: Place

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor]:
        return (concrete(x, *self._gate(seed)),)

    def backward(self, grad: Tensor, x: Tensor, seed: Tensor) -> tuple[Tensor, None]:
        gate = self._gate(seed)
        if not self.of_probs:
            return concrete_backward(x, grad, *gate), None
        return _but_for_certain(lambda x: concrete_backward(x, grad, *gate), x), None

    def jvp(self, tangents: Sequence[Tensor], x: Tensor, seed: Tensor) -> Tensor:
        return self.backward(tangents[0], x, seed)[0]

    def _gate(self, seed: Tensor) -> tuple[float, float, float, bool, bool, Noise]:
        noise = Noise(seed, *self.place)
        return self.tau, self.gamma, self.zeta, self.hard, self.of_probs, noise


def _but_for_certain(pulled: Callable[[Tensor], Tensor], probs: Tensor) -> Tensor:
    """Return a gradient to probabilities, 0 at 0 and 1, where their logits have no derivative.

    It is 0 there by itself, and only a second derivative would be NaN.
    """
    if not (torch.is_grad_enabled() and probs.requires_grad):
        return pulled(probs)
    certain = (probs == 0) | (probs == 1)
    return pulled(torch.where(certain, 0.5, probs)).masked_fill(certain, 0)
