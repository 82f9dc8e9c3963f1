"""Binary operators: the specification, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.noise import Seed, element_uniform, in_blocks, logistic
from ...core.rules import Derivative, compute_dtype
from ...core.straight_through import Operation
from ...estimators.base import Estimator


def uniform_like(x: Tensor, seed: Tensor, offset: int) -> Tensor:
    """Return one uniform an element, in float32 for half inputs."""
    wide = compute_dtype(x.dtype)

    def block(first: int, flat: Tensor) -> Tensor:
        return element_uniform(seed, offset + first, flat.shape[0], wide)

    return in_blocks(block, x.reshape(-1)).reshape(x.shape)


def logit(p: Tensor) -> Tensor:
    """Return log(p / (1 - p)); infinite at 0 and 1."""
    return p.log() - torch.log1p(-p)


def logit_slope(p: Tensor) -> Tensor:
    """Return the derivative of `logit`, kept finite at 0 and 1."""
    tiny = torch.finfo(p.dtype).tiny
    return 1 / (p * (1 - p)).clamp(min=tiny)


def probability(logits: Tensor, **_: object) -> Tensor:
    """Return the mean of a draw, in float64."""
    return torch.sigmoid(logits.double())


def gradient(
    rule: Estimator | Derivative, x: Tensor, y: Tensor, grad: Tensor, seed: Seed
) -> Tensor:
    """The surrogate's derivative, or the estimator's formula on the classes 0 and `x`."""
    if isinstance(rule, Derivative):
        return grad.double() * rule.derivative(x.double())
    if rule.draws_noise:
        wide = compute_dtype(x.dtype)
        return rule.binary_gradient(x.to(wide), y > 0, grad.to(wide), seed).double()
    return Estimator.binary_gradient(rule, x.double(), y > 0, grad.double(), seed)


@dataclass(frozen=True)
class Draw(Operation):
    """A 0/1 draw forward, the rule backward; `x` is a probability or its logit."""

    rule: Estimator | Derivative
    offset: int
    of_probs: bool

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        wide = x.to(compute_dtype(x.dtype))
        p = wide if self.of_probs else torch.sigmoid(wide)
        outcome = uniform_like(x, seed, self.offset) < p
        valid = (p >= 0) & (p <= 1)
        return torch.where(valid, outcome.to(x.dtype), torch.nan), outcome

    def backward(
        self, grad: Tensor, x: Tensor, seed: Tensor, outcome: Tensor
    ) -> tuple[Tensor, None]:
        if isinstance(self.rule, Derivative):
            return self.rule.vjp(x, grad), None
        wide, own = compute_dtype(x.dtype), Seed(seed, self.offset)
        parameter, grad = x.to(wide), grad.to(wide)
        logits = logit(parameter) if self.of_probs else parameter
        gradient = self.rule.binary_gradient(logits, outcome, grad, own)
        if self.of_probs:
            gradient = gradient * logit_slope(parameter)
        return gradient.to(x.dtype), None


@dataclass(frozen=True)
class Concrete(Operation):
    """The (hard) concrete gate, its noise made again in backward.

    Soft: `clamp(s (zeta - gamma) + gamma, 0, 1)`, `s = sigmoid((logit + logistic noise) / tau)`.
    Hard: 1 where logit + noise > 0. Backward is that of the soft value in both.
    """

    tau: float
    gamma: float
    zeta: float
    hard: bool
    offset: int
    of_probs: bool

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor]:
        noisy = self._noisy(x, seed)
        if self.hard:
            value = (noisy > 0).to(noisy.dtype)
            return (torch.where(noisy.isnan(), noisy, value).to(x.dtype),)
        return (stretch(torch.sigmoid(noisy / self.tau), self.gamma, self.zeta).to(x.dtype),)

    def backward(self, grad: Tensor, x: Tensor, seed: Tensor) -> tuple[Tensor, None]:
        slope = self._slope(x, seed)
        return (grad.to(slope.dtype) * slope).to(x.dtype), None

    def jvp(self, tangents: Sequence[Tensor], x: Tensor, seed: Tensor) -> Tensor:
        return self.backward(tangents[0], x, seed)[0]

    def _noisy(self, x: Tensor, seed: Tensor) -> Tensor:
        wide = x.to(compute_dtype(x.dtype))
        logits = logit(wide) if self.of_probs else wide
        return logits + logistic(uniform_like(x, seed, self.offset))

    def _slope(self, x: Tensor, seed: Tensor) -> Tensor:
        noisy = self._noisy(x, seed) / self.tau
        s, rest = torch.sigmoid(noisy), torch.sigmoid(-noisy)
        gate = s * (self.zeta - self.gamma) + self.gamma
        inside = (gate >= 0) & (gate <= 1)
        slope = s * rest * ((self.zeta - self.gamma) / self.tau)
        if self.of_probs:
            slope = slope * logit_slope(x.to(slope.dtype))
        return torch.where(inside | gate.isnan(), slope, 0)


def soft_gradient(
    rule: None,
    x: Tensor,
    y: Tensor,
    grad: Tensor,
    seed: Seed,
    *,
    hard: bool,
    tau: float,
    gamma: float = 0.0,
    zeta: float = 1.0,
) -> Tensor:
    """The gradient of the soft gate under the same noise."""
    noise = logistic(uniform_like(x, seed.tensor(x.device), seed.offset)).double()

    def soft(logits: Tensor) -> Tensor:
        return stretch(torch.sigmoid((logits + noise) / tau), gamma, zeta)

    return torch.func.vjp(soft, x.double())[1](grad.double())[0]


def stretch(s: Tensor, gamma: float, zeta: float) -> Tensor:
    """Return `clamp(s (zeta - gamma) + gamma, 0, 1)` with a mask of our own at the bounds."""
    gate = s * (zeta - gamma) + gamma
    return torch.where(gate < 0, 0, torch.where(gate > 1, 1, gate))
