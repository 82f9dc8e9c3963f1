"""What the binary kernels must equal, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.bits import pack
from ...core.internals import tracing
from ...core.kernels import bits, kernel, like
from ...core.noise import Noise, in_blocks, logistic
from ...core.precision import cast, compute_dtype, narrowed


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
    y = outcome.to(x.dtype).masked_fill(p != p.clamp(0, 1), torch.nan)
    # Inductor fuses with a bool an element, and cannot with bits.
    return y, outcome if tracing() else pack(outcome)


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
    slope = s * rest * ((zeta - gamma) / tau)
    if of_probs:
        slope = narrowed(slope * logit_slope(x.to(slope.dtype)), slope.dtype, infinite=slope)
    slope = slope.masked_fill((gate < 0) | (gate > 1), 0)
    wide = grad.to(slope.dtype)
    return narrowed(wide * slope, x.dtype, infinite=wide)


def _noisy(x: Tensor, noise: Noise, of_probs: bool) -> Tensor:
    return as_logits(x, of_probs) + logistic(uniform_like(x, noise))


def stretch(s: Tensor, gamma: float, zeta: float) -> Tensor:
    """Return `clamp(s (zeta - gamma) + gamma, 0, 1)` with a mask of our own at the bounds."""
    gate = s * (zeta - gamma) + gamma
    return gate.masked_fill(gate < 0, 0).masked_fill(gate > 1, 1)
