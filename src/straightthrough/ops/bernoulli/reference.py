"""Binary operators in plain torch: every forward with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.bits import pack
from ...core.internals import tracing
from ...core.kernels import bits, kernel, like
from ...core.noise import Noise, Place, in_blocks, logistic
from ...core.operation import Operation
from ...core.rules import Derivative, cast, compute_dtype, narrowed
from ...estimators.base import Estimator, is_one


def uniform_like(x: Tensor, noise: Noise) -> Tensor:
    """Return one uniform an element, in float32 for half inputs."""
    wide = compute_dtype(x.dtype)

    def block(first: int, flat: Tensor) -> Tensor:
        return noise.after(first).elements(flat.shape[0], wide)

    return in_blocks(block, x.reshape(-1)).reshape(x.shape)


def logit(p: Tensor) -> Tensor:
    """Return log(p / (1 - p)); infinite at 0 and 1."""
    return p.log() - torch.log1p(-p)


def as_logits(x: Tensor, of_probs: bool) -> Tensor:
    """Return `x`, logits or probabilities, as logits in what it is computed in."""
    wide = x.to(compute_dtype(x.dtype))
    return logit(wide) if of_probs else wide


def logit_slope(p: Tensor) -> Tensor:
    """Return the derivative of `logit`, kept finite at 0 and 1."""
    tiny = torch.finfo(p.dtype).tiny
    return 1 / (p * (1 - p)).clamp(min=tiny)


@kernel("(Tensor x, bool of_probs, Noise noise) -> (Tensor, Tensor)", like, bits)
def binary_draw(x: Tensor, of_probs: bool, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return `1[u < p]` in the dtype of `x`, NaN where p is none, and its bits."""
    wide = x.to(compute_dtype(x.dtype))
    p = wide if of_probs else torch.sigmoid(wide)
    outcome = uniform_like(x, noise) < p
    valid = (p >= 0) & (p <= 1)
    y = torch.where(valid, outcome.to(x.dtype), torch.nan)
    # Inductor fuses with a bool an element, and cannot with bits.
    return y, outcome if tracing() else pack(outcome)


@dataclass(frozen=True)
class Draw(Operation):
    """A 0/1 draw forward, the rule backward; `x` is a probability or its logit."""

    rule: Estimator | Derivative
    place: Place
    of_probs: bool

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        noise = Noise(seed, *self.place)
        tau = self.rule.tau_forward if isinstance(self.rule, Estimator) else 1.0
        if is_one(tau):
            return binary_draw(x, self.of_probs, noise)
        logits = as_logits(x, self.of_probs)
        y, outcome = binary_draw(logits / cast(tau, logits.dtype), False, noise)
        return y.to(x.dtype), outcome

    def backward(
        self, grad: Tensor, x: Tensor, seed: Tensor, outcome: Tensor
    ) -> tuple[Tensor, None]:
        if isinstance(self.rule, Derivative):
            return self.rule.backward(x, grad), None
        noise = Noise(seed, *self.place)
        if not self.of_probs:
            return self.rule.binary_pull(x, outcome, grad, noise), None
        logits = as_logits(x, self.of_probs)
        gradient = self.rule.binary_pull(logits, outcome, grad.to(logits.dtype), noise)
        to_probs = gradient * logit_slope(x.to(logits.dtype))
        return narrowed(to_probs, x.dtype, given=gradient), None


GATE = "float tau, float gamma, float zeta, bool hard, bool of_probs"


@kernel(f"(Tensor x, {GATE}, Noise noise) -> Tensor")
def concrete(
    x: Tensor,
    tau: float,
    gamma: float,
    zeta: float,
    hard: bool,
    of_probs: bool,
    noise: Noise,
) -> Tensor:
    """`clamp(s (zeta - gamma) + gamma, 0, 1)`, or 1 where logit + noise > 0."""
    noisy = _noisy(x, noise, of_probs)
    tau, gamma, zeta = (cast(number, noisy.dtype) for number in (tau, gamma, zeta))
    if hard:
        value = (noisy > 0).to(noisy.dtype)
        return torch.where(noisy.isnan(), noisy, value).to(x.dtype)
    return stretch(torch.sigmoid(noisy / tau), gamma, zeta).to(x.dtype)


@kernel(f"(Tensor x, Tensor grad, {GATE}, Noise noise) -> Tensor")
def concrete_backward(
    x: Tensor,
    grad: Tensor,
    tau: float,
    gamma: float,
    zeta: float,
    hard: bool,
    of_probs: bool,
    noise: Noise,
) -> Tensor:
    """`g` times the derivative of the soft gate, which is 0 outside the clamp."""
    noisy = _noisy(x, noise, of_probs)
    tau, gamma, zeta = (cast(number, noisy.dtype) for number in (tau, gamma, zeta))
    noisy = noisy / tau
    s, rest = torch.sigmoid(noisy), torch.sigmoid(-noisy)
    gate = s * (zeta - gamma) + gamma
    inside = (gate >= 0) & (gate <= 1)
    slope = s * rest * ((zeta - gamma) / tau)
    if of_probs:
        slope = narrowed(slope * logit_slope(x.to(slope.dtype)), slope.dtype, given=slope)
    slope = torch.where(inside | gate.isnan(), slope, 0)
    wide = grad.to(slope.dtype)
    return narrowed(wide * slope, x.dtype, given=wide)


def _noisy(x: Tensor, noise: Noise, of_probs: bool) -> Tensor:
    return as_logits(x, of_probs) + logistic(uniform_like(x, noise))


@dataclass(frozen=True)
class Concrete(Operation):
    """The (hard) concrete gate, its noise made again in backward.

    Backward is that of the soft value, whether the value is hard or soft.
    """

    tau: float
    gamma: float
    zeta: float
    hard: bool
    of_probs: bool
    place: Place

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor]:
        return (concrete(x, *self._gate(), Noise(seed, *self.place)),)

    def backward(self, grad: Tensor, x: Tensor, seed: Tensor) -> tuple[Tensor, None]:
        return concrete_backward(x, grad, *self._gate(), Noise(seed, *self.place)), None

    def jvp(self, tangents: Sequence[Tensor], x: Tensor, seed: Tensor) -> Tensor:
        return self.backward(tangents[0], x, seed)[0]

    def _gate(self) -> tuple[float, float, float, bool, bool]:
        return self.tau, self.gamma, self.zeta, self.hard, self.of_probs


def stretch(s: Tensor, gamma: float, zeta: float) -> Tensor:
    """Return `clamp(s (zeta - gamma) + gamma, 0, 1)` with a mask of our own at the bounds."""
    gate = s * (zeta - gamma) + gamma
    return torch.where(gate < 0, 0, torch.where(gate > 1, 1, gate))
