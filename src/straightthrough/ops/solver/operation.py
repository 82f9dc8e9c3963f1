"""Solvers: the solution forward, a rule backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.noise import Place
from ...core.operation import RuledDraw
from ...core.precision import compute_dtype, narrowed
from ...estimators.solver import SolverEstimator
from .blackbox import held, solved, solver_of


@dataclass
class Solve(RuledDraw):
    """The solution of a problem forward, a rule that may solve others backward."""

    name = "st.solve"

    rule: SolverEstimator
    place: Place
    solver: str
    event_dim: int

    @property
    def dims(self) -> tuple[str, ...]:  # type: ignore[override]  # a problem has as many
        return (" ".join(["...", *(f"N{i}" for i in range(self.event_dim))]),)

    def forward(self, theta: Tensor, seed: Tensor) -> tuple[Tensor]:
        wide = theta.to(compute_dtype(theta.dtype))
        rule = self.rule.in_dtype(wide.dtype)
        point = rule.point(self._rows(wide), self.noise((seed,) if rule.draws_noise else ()))
        z = solved(point.reshape(theta.shape).detach(), self.solver, self.event_dim)
        invalid = self._any(theta.isnan() | theta.isposinf())
        return (torch.where(invalid, torch.nan, z).to(theta.dtype),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        self.kept = solver_of(self.solver)  # until backward, where the caller holds it no longer
        return (outputs[0], *super().residuals(inputs, outputs))

    def backward(
        self, grad: Tensor, z: Tensor, theta: Tensor, *seed: Tensor
    ) -> tuple[Tensor, None]:
        wide = compute_dtype(theta.dtype)
        # A solver may refuse an infinite step, or answer by a finite gradient, which would hide it.
        unknown = self._any(~(z.isfinite() & grad.isfinite()))
        grad = torch.where(unknown, 0, grad)
        rows, at, to_z = (self._rows(x.to(wide)) for x in (theta, z.detach(), grad))

        def solve(rows: Tensor) -> Tensor:
            return self._rows(held(rows.reshape(theta.shape), self.solver, self.event_dim))

        rule = self.rule.in_dtype(wide)
        gradient = rule.gradient(rows, at, to_z, solve, self.noise(seed))
        gradient = gradient.reshape(theta.shape)
        return narrowed(torch.where(unknown, torch.nan, gradient), theta.dtype), None

    def _rows(self, x: Tensor) -> Tensor:
        """Return one row a problem."""
        lead, size = x.shape[: x.ndim - self.event_dim], x.shape[x.ndim - self.event_dim :]
        return x.reshape(math.prod(lead), math.prod(size))  # numel() of a size fixes one left open

    def _any(self, x: Tensor) -> Tensor:
        """Say of problems whether any of their entries is, so that it broadcasts to them."""
        return x.any(tuple(range(-self.event_dim, 0)), keepdim=True)
