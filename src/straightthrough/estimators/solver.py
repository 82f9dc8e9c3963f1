"""Rules for what a solver returns, the y that makes `<theta, y>` largest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import ArgumentError, check_count, check_flag, check_positive
from ..core.gumbels import gumbels
from ..core.noise import Noise
from ..core.registry import rule
from ..core.rules import Rule

Solver = Callable[[Tensor], Tensor]


class SolverEstimator(Rule):
    """A backward rule for a solver, which backward may call again.

    A subclass writes `gradient`, of rows in float32 or float64, and `point`, where forward solves,
    if that is not at theta; then `tau_forward` is above 0.
    """

    linear: ClassVar[bool] = False
    tau_forward = 0.0

    def point(self, theta: Tensor, noise: Noise) -> Tensor:
        """Return where forward solves."""
        return theta

    @abstractmethod
    def gradient(
        self, theta: Tensor, z: Tensor, grad: Tensor, solve: Solver, noise: Noise
    ) -> Tensor:
        """Return the gradient to theta.

        Args:
            theta: `(N, n)`, a problem a row, float32 or float64.
            z: the solutions that forward returned, of that shape and dtype.
            grad: the gradient to them, likewise.
            solve: solves other rows of that shape; its derivative is 0.
            noise: that of the forward, row by row.
        """


def uniforms(like: Tensor, noise: Noise, sample: int) -> Tensor:
    """Return uniforms of the shape of rows."""
    rows, size = like.shape
    return noise.classes(rows, size, like.dtype, sample)


def stepped(theta: Tensor, step: Tensor) -> Tensor:
    """Return theta less a step, finite where theta is, as the step of large numbers may not be."""
    most = torch.finfo(theta.dtype).max
    return torch.where(theta.isfinite(), (theta - step).clamp(-most, most), theta)


PROJECTIONS = ("mean", "std", "none")


@rule("solver_identity", shorthand="identity")
@dataclass(frozen=True)
class SolverIdentity(SolverEstimator):
    """The gradient as it is, projected: `g - mean(g)`; no further solve.

    What is taken away is what no solution answers to, where a number that is added to all of theta
    changes none, as in assignments, paths of equal length and subsets of a size. `"std"` projects
    what the scale changes too: `(g - mean(g) - u mean(u g)) / s`, `u = (theta - mean) / s`, s the
    standard deviation of theta. Both are of the entries above -infinity, and 0 for the others;
    `"none"` takes nothing away.

    Args:
        projection: `"mean"`, `"std"` or `"none"`.

    Cost: one pass over the gradient.

    Higher order: differentiates the formula.

    References:
        Sahoo et al., "Backpropagation through combinatorial algorithms: identity with projection
        works", 2023.
    """

    projection: str = "mean"

    def __post_init__(self) -> None:
        if self.projection not in PROJECTIONS:
            raise ArgumentError(
                f"projection must be one of {', '.join(PROJECTIONS)}, got {self.projection!r}"
            )

    def gradient(
        self, theta: Tensor, z: Tensor, grad: Tensor, solve: Solver, noise: Noise
    ) -> Tensor:
        if self.projection == "none":
            return grad
        known = theta != -torch.inf
        count = known.sum(-1, keepdim=True).clamp(min=1)

        def mean(x: Tensor) -> Tensor:
            return torch.where(known, x, 0).sum(-1, keepdim=True) / count

        centred = grad - mean(grad)
        if self.projection == "mean":
            return torch.where(known, centred, 0)
        offset = torch.where(known, theta - mean(theta), 0)
        variance = mean(offset.square())
        scale = torch.where(variance > 0, variance, 1).sqrt()
        unit = offset / scale
        projected = (centred - unit * mean(unit * grad)) / scale
        return torch.where(known, projected, 0)


@rule("blackbox")
@dataclass(frozen=True)
class Blackbox(SolverEstimator):
    """The slope of a piecewise linear interpolation: `(z(theta) - z(theta - lam g)) / lam`.

    The step has to change a solution: too small a lam gives 0, too large a one bias alone.

    Args:
        lam: how far to step along the gradient, > 0.

    Cost: one solve.

    Higher order: the solutions are held, so second derivatives are 0.

    References:
        Vlastelica et al., "Differentiation of blackbox combinatorial solvers", 2020, algorithm 1.
    """

    lam: float = 1.0

    def __post_init__(self) -> None:
        check_positive("lam", self.lam)

    def gradient(
        self, theta: Tensor, z: Tensor, grad: Tensor, solve: Solver, noise: Noise
    ) -> Tensor:
        return (z - solve(stepped(theta, self.lam * grad))) / self.lam


@rule("imle")
@dataclass(frozen=True)
class IMLE(SolverEstimator):
    """Implicit maximum likelihood: the same step, averaged over perturbed problems.

    Forward solves at `theta + sigma e_0`, e Gumbel noise. Backward is
    `mean_m (z(theta + sigma e_m) - z(theta - lam g + sigma e_m)) / lam`, m = 0, ..., samples - 1:
    the same noise in both terms, and the first solution is forward's. (The published code leaves
    out the division by lam.)

    Args:
        lam: how far to step along the gradient, > 0; with `relative`, as a share of theta's length.
        samples: how many problems are perturbed, at least 1.
        sigma: of the noise, > 0.
        relative: whether the step of a row is `lam |theta| / |g|` times its gradient, both lengths
            without entries of theta at -infinity, as in adaptive implicit maximum likelihood; a
            schedule of `st.nn.Solve` then moves lam.

    Cost: 2 samples - 1 solves.

    Higher order: the solutions are held, so second derivatives are those of the step alone.

    References:
        Niepert, Minervini, Franceschi, "Implicit MLE: backpropagating through discrete exponential
        family distributions", 2021. Minervini, Franceschi, Niepert, "Adaptive perturbation-based
        gradient estimation for discrete latent variable models", 2023.
    """

    lam: float = 1.0
    samples: int = 1
    sigma: float = 1.0
    relative: bool = False

    draws_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("lam", self.lam)
        check_count("samples", self.samples)
        check_positive("sigma", self.sigma)
        check_flag("relative", self.relative)

    @property
    def tau_forward(self) -> float:  # type: ignore[override]  # that of a Gumbel of this scale
        return self.sigma

    def point(self, theta: Tensor, noise: Noise) -> Tensor:
        return theta + self.sigma * gumbels(theta, 0, noise)

    def gradient(
        self, theta: Tensor, z: Tensor, grad: Tensor, solve: Solver, noise: Noise
    ) -> Tensor:
        step = self._step(theta, grad)
        target = stepped(theta, step * grad)
        total = torch.zeros_like(theta)
        for sample in range(self.samples):
            moved = self.sigma * gumbels(theta, sample, noise)
            here = solve(theta + moved) if sample else z
            total = total + here - solve(target + moved)
        return total / (step * self.samples)

    def _step(self, theta: Tensor, grad: Tensor) -> Tensor | float:
        if not self.relative:
            return self.lam
        known = theta != -torch.inf
        given = (torch.where(known, x, 0) for x in (theta, grad))
        lengths = [torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in given]
        share = lengths[0] / lengths[1]
        step = self.lam * torch.where(share.isfinite() & (share > 0), share, 1)
        numbers = torch.finfo(theta.dtype)
        return step.clamp(numbers.tiny, numbers.max)


LAWS = ("gumbel", "normal")


@rule("perturbed")
@dataclass(frozen=True)
class Perturbed(SolverEstimator):
    """The gradient of the mean solution of perturbed problems, by their noise.

    Forward solves at `theta + sigma e_0`. Backward is
    `mean_m <z(theta + sigma e_m) - b, g> nu(e_m) / sigma`, m = 1, ..., samples, with `nu(e) = e`
    for normal noise, `1 - exp(-e)` for Gumbel noise: that of `<E[z(theta + sigma e)], g>`,
    unbiased. The baseline b = z(theta) changes no mean; it takes most of the variance away where
    the noise seldom changes the solution, and adds some where it often does. Entries of theta at
    -infinity, which no noise moves, get 0.

    Args:
        sigma: of the noise, > 0.
        samples: how many problems are perturbed, at least 1.
        law: `"gumbel"` or `"normal"`.
        baseline: whether the solution at theta is taken away, at the cost of one more solve.

    Cost: samples + 1 solves.

    Higher order: the solutions are held.

    References:
        Berthet et al., "Learning with differentiable perturbed optimizers", 2020, proposition 3.1.
    """

    sigma: float = 1.0
    samples: int = 4
    law: str = "gumbel"
    baseline: bool = True

    draws_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("sigma", self.sigma)
        check_count("samples", self.samples)
        if self.law not in LAWS:
            raise ArgumentError(f"law must be one of {', '.join(LAWS)}, got {self.law!r}")
        check_flag("baseline", self.baseline)

    @property
    def tau_forward(self) -> float:  # type: ignore[override]  # that of a Gumbel of this scale
        return self.sigma

    def point(self, theta: Tensor, noise: Noise) -> Tensor:
        return theta + self.sigma * self._noise(theta, noise, 0)

    def gradient(
        self, theta: Tensor, z: Tensor, grad: Tensor, solve: Solver, noise: Noise
    ) -> Tensor:
        base = solve(theta) if self.baseline else torch.zeros_like(theta)
        total = torch.zeros_like(theta)
        for sample in range(1, self.samples + 1):
            e = self._noise(theta, noise, sample)
            gain = ((solve(theta + self.sigma * e) - base) * grad).sum(-1, keepdim=True)
            total = total + gain * (e if self.law == "normal" else 1 - torch.exp(-e))
        return torch.where(theta == -torch.inf, 0, total / (self.sigma * self.samples))

    def _noise(self, like: Tensor, noise: Noise, sample: int) -> Tensor:
        if self.law == "gumbel":
            return gumbels(like, sample, noise)
        return torch.special.ndtri(uniforms(like, noise, sample))
