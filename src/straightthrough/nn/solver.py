"""Solvers as modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.compiler import is_exporting

from ..core.errors import StraightThroughError, check_count
from ..estimators.solver import SolverEstimator, SolverIdentity
from ..ops.solver import api
from ..ops.solver.blackbox import check_solver
from .base import EstimatorModule, Number
from .checked import Checks
from .schedules import Answering


class Solve(EstimatorModule[SolverEstimator]):
    """`st.solve` as a module; in `eval()` the solution at theta itself, without noise.

    Args:
        solver: takes problems `(N, ...)` and returns solutions of that shape.
        estimator: a `SolverEstimator` or its shorthand.
        event_dim: how many of the last dimensions are one problem.
        fields: numbers or schedules for the estimator's fields; an `Answering` schedule for `lam`
            is shown the gradient to theta of every backward in training.

    Example:
        >>> largest = lambda t: torch.nn.functional.one_hot(t.argmax(-1), t.shape[-1])
        >>> choose = st.nn.Solve(largest, "blackbox", lam=st.nn.schedules.Linear(10, 1, steps=100))
        >>> choose(torch.tensor([1.0, 3.0, 2.0]))
        tensor([0., 1., 0.])
    """

    event_dim: int
    numbers: ClassVar[Checks] = {"event_dim": check_count}
    checks: ClassVar[Checks] = {"solver": check_solver}

    def __init__(
        self,
        solver: Callable[[Tensor], Any],
        estimator: SolverEstimator | str = "imle",
        *,
        event_dim: int = 1,
        **fields: Number,
    ) -> None:
        super().__init__(estimator, (SolverEstimator,), fields)
        self.solver, self.event_dim = solver, event_dim

    def forward(self, theta: Tensor) -> Tensor:
        if not self.training:
            return api.solve(self.solver, theta, SolverIdentity(), event_dim=self.event_dim)
        seeing = [each for each in self._schedules() if isinstance(each, Answering)]
        if seeing and is_exporting():
            raise StraightThroughError(
                "an exported graph can't hold an Answering schedule, whose mean moves in backward; "
                "export the module in eval(), or with a number in its place"
            )
        if seeing and theta.requires_grad and torch.is_grad_enabled():
            theta = theta.view_as(theta)  # whose gradient comes of this call alone
            for schedule in seeing:
                theta.register_hook(self._shown_to(schedule))
        return api.solve(self.solver, theta, self.rule, event_dim=self.event_dim)

    def _shown_to(self, schedule: Answering) -> Callable[[Tensor], None]:
        running = schedule.running  # after this call `torch.func.functional_call` takes it back
        return lambda gradient: schedule.see(gradient.flatten(-self.event_dim), running)

    def extra_repr(self) -> str:
        name = getattr(self.solver, "__name__", type(self.solver).__name__)
        return f"solver={name}, {super().extra_repr()}, event_dim={self.event_dim}"
