"""Solvers: any function that maximises a linear objective, with a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    ArgumentError,
    Number,
    ShapeError,
    as_int,
    check_dense,
    check_floating,
    check_outcomes,
)
from ...core.noise import Seed, make_seed
from ...core.outcomes import OneHot
from ...core.registry import operator, resolve
from ...core.signature import Input
from ...estimators.solver import IMLE, SolverEstimator
from . import specification
from .blackbox import key_of
from .operation import Solve

NO_SOLUTION = "a NaN or +infinity, or the solver returned NaN"


@operator(
    family="solver",
    inputs=(Input("theta", "... C"),),
    outcome=OneHot(),
    expected=specification.probabilities,
    gradient=specification.gradient,
    rule="estimator",
    fits=(SolverEstimator,),
    default=IMLE(),
    saved_bytes=lambda rule, theta: 2 * theta.nbytes + 8 * rule.draws_noise,
    arguments={"solver": specification.largest},
    forward_mode=False,
)
def solve(
    solver: Callable[[Tensor], Any],
    theta: Tensor,
    estimator: SolverEstimator | str = "imle",
    *,
    event_dim: int = 1,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """What a solver returns, hard, with a gradient that comes of solving other problems.

    Forward: `y = solver(theta)`, the solver being any function that returns the feasible y that
    makes `<theta, y>` largest: an assignment, a path, a knapsack. With `"imle"` and `"perturbed"`
    it is one solution of a perturbed problem, `y = solver(theta + sigma e_0)`. Backward:
    the estimator's formula, such as `(y - solver(theta - lam dL/dy)) / lam` of `"blackbox"`.

    Args:
        solver: takes problems `(N, ...)`, a detached tensor on theta's device, float32 or float64,
            and returns solutions of that shape: a tensor or a numpy array, of floats, integers or
            bools. One that minimises costs is given theta with a minus: `lambda t: path(-t)`.
        theta: `(..., n)`, or, with a larger `event_dim`, that many last dimensions a problem;
            floating.
        estimator: a `SolverEstimator` or its shorthand: `"identity"` (`SolverIdentity`),
            `"blackbox"`, `"imle"`, `"perturbed"`.
        event_dim: how many of the last dimensions are one problem: 2 for grids and squares.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields, as `lam=10.0` beside `"blackbox"`.

    Returns:
        A tensor of the shape, dtype and device of `theta`: the solutions, exactly.

    Raises:
        DtypeError: if theta is not floating.
        ShapeError: if theta has fewer dimensions than a problem, or a problem no entry, or what the
            solver returns another shape than it was given.
        ArgumentError: if the solver is no function, the estimator or a field unknown, or both
            `seed` and `generator` are given.
        StraightThroughError: if the solver raises, naming the first row at which it does; in
            backward too.

    Edge cases: a problem with NaN or +infinity, or for which the solver returns NaN, gives NaN (in
    `st.strict()` an error); the solver is given it all the same. Where there is no problem
    it is not called.

    Higher order: the solutions are held; forward mode raises.

    Cost: one call of the solver forward, with all problems; backward as many as the estimator says.
    Theta and the solutions are saved, and the seed if the rule draws noise. Compiled code calls it
    whole, where it stands.

    Example:
        >>> def cheapest(theta):  # two of four, as a knapsack of equal weights
        ...     return torch.zeros_like(theta).scatter(-1, theta.topk(2).indices, 1.0)
        >>> theta = torch.tensor([0.3, 1.0, 0.2, 0.1], requires_grad=True)
        >>> y = st.solve(cheapest, theta, "blackbox", lam=2.0)
        >>> (y * torch.tensor([1.0, 0.0, 0.0, 0.0])).sum().backward()
        >>> y.tolist(), theta.grad
        ([1.0, 1.0, 0.0, 0.0], tensor([ 0.5000,  0.0000, -0.5000,  0.0000]))
    """
    rule = resolve("estimator", estimator, SolverEstimator, fields=fields)
    check_floating("theta", theta)
    if theta.is_nested:
        check_dense("theta", theta)
    dims = as_int(event_dim)
    if dims is None or dims < 1:
        raise ArgumentError(f"event_dim must be an int of at least 1, got {event_dim!r}")
    event_dim = dims
    if theta.ndim < event_dim:
        raise ShapeError(
            f"theta must have the {event_dim} dimensions of a problem at least, got shape "
            f"{tuple(theta.shape)}"
        )
    if 0 in theta.shape[theta.ndim - event_dim :]:
        raise ShapeError(f"a problem must have an entry at least, got shape {tuple(theta.shape)}")
    if seed is None and generator is None and not rule.draws_noise:
        seed = 0  # which nothing asks for
    value, place = make_seed(seed, generator, theta)
    y: Tensor = apply(Solve(rule, place, key_of(solver), event_dim), theta, value)
    event = tuple(range(-event_dim, 0))
    check_outcomes("solve", lambda: y.isnan().any(event), NO_SOLUTION)
    return y
