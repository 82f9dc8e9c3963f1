"""What solvers are held against: the law of the largest of perturbed numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.noise import Noise
from ...core.precision import compute_dtype
from ...estimators.solver import SolverEstimator


def largest(theta: Tensor) -> Tensor:
    """A solver of one step: the one-hot of the largest number, NaN where all are -infinity."""
    hot = torch.nn.functional.one_hot(theta.argmax(-1), theta.shape[-1]).to(theta.dtype)
    return hot.masked_fill(theta.amax(-1, keepdim=True).isneginf(), torch.nan)


def probabilities(theta: Tensor, solver: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of what that solver returns where Gumbel noise is added."""
    return theta.double().softmax(-1)


def gradient(
    rule: SolverEstimator,
    theta: Tensor,
    y: Tensor,
    grad: Tensor,
    noise: Noise,
    solver: Callable[[Tensor], Tensor],
) -> tuple[Tensor]:
    """The rule's formula, the solver called as it is."""
    wide = compute_dtype(theta.dtype) if rule.draws_noise else torch.float64
    rows, at, to_y = (x.to(wide).reshape(-1, x.shape[-1]) for x in (theta, y, grad))

    def solve(rows: Tensor) -> Tensor:
        return solver(rows.detach()) + 0 * torch.where(rows.isfinite(), rows, 0)

    found = rule.gradient(rows, at, to_y, solve, noise).double().reshape(theta.shape)
    return (found.masked_fill(y.isnan().any(-1, keepdim=True), torch.nan),)
