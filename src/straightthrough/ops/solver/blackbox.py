"""A solver as an operator of torch: opaque, called by its key, whatever it is written in."""

from __future__ import annotations

import itertools
import secrets
import weakref
from collections import deque
from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_exporting

from ...core.errors import ArgumentError, ShapeError, StraightThroughError, check_not_onnx
from ...core.internals import (
    constant_in_graphs,
    forward_mode,
    functions_enabled,
    tracing,
    transforms_active,
)
from ...core.library import library

Solver = Callable[[Tensor], Any]

_keys: dict[tuple[int, ...], str] = {}
"""By identity: two solvers that are equal may solve differently."""

_solvers: dict[str, Any] = {}
_recent: deque[Any] = deque(maxlen=64)
"""So many of compiled code and transforms are kept alive here: their graphs hold the keys alone."""

_count = itertools.count()

_HERE = f" of {secrets.token_hex(6)}"
"""What ends the keys of exported graphs, which another process may load: it has other solvers."""


@constant_in_graphs
def key_of(solver: Solver) -> str:
    """Return what stands for a solver in an operation, which holds no function."""
    reference = check_solver("solver", solver)
    parts = (solver.__self__, solver.__func__) if isinstance(solver, MethodType) else (solver,)
    identity = tuple(map(id, parts))
    known = _keys.get(identity)
    if known is None or solver_of(known) is None:
        _forget()
        known = _keys[identity] = str(next(_count))
        _solvers[known] = reference
    if tracing() or transforms_active():
        _recent.append(solver)
    return known + _HERE if is_exporting() else known


def check_solver(name: str, solver: object) -> Any:
    """Return a weak reference to a solver, or raise unless it is a function that can have one."""
    if not callable(solver):
        raise ArgumentError(
            f"{name} must be a function of theta (N, n) that returns the solutions, got "
            f"{type(solver).__name__}"
        )
    try:
        return (weakref.WeakMethod if isinstance(solver, MethodType) else weakref.ref)(solver)
    except TypeError:
        raise ArgumentError(
            f"{name} must allow weak references, got {type(solver).__name__}; pass a function that "
            f"calls it"
        ) from None


def _forget() -> None:
    for identity, key in [*_keys.items()]:
        if solver_of(key) is None:
            _keys.pop(identity, None)  # which another thread may have done
            _solvers.pop(key, None)


def solver_of(key: str) -> Solver | None:
    """Return what a key stands for, while it lives."""
    reference = _solvers.get(key.removesuffix(_HERE))
    found: Solver | None = reference() if reference is not None else None
    return found


def _solved(theta: Tensor, key: str, event_dim: int) -> Tensor:
    """Return the solutions of all problems, in the shape and the dtype of theta."""
    solver = solver_of(key)
    if solver is None:
        raise StraightThroughError(
            "the solver is gone: keep a reference to it for as long as its graph is used; a graph "
            "that was exported in another process has none, so export what comes before it"
        )
    problems = theta.reshape(-1, *theta.shape[theta.ndim - event_dim :])
    if len(problems) == 0:
        return torch.empty_like(theta)
    # The solver is told the dtype that it computes in.
    with functions_enabled(), torch.no_grad(), torch.autocast(theta.device.type, enabled=False):
        try:
            found = solver(problems.clone())
        except Exception as error:
            raise StraightThroughError(_blamed(solver, problems, error)) from error
    return _read(found, problems, solver).reshape(theta.shape)


def _blamed(solver: Solver, problems: Tensor, error: Exception) -> str:
    """Return what a solver raised and, found by solving one after the other, where."""
    place = f"of shape {tuple(problems.shape)}"
    for row in range(len(problems)) if len(problems) > 1 else ():
        try:
            solver(problems[row : row + 1].clone())
        except Exception as one:
            error, place = one, f"at row {row} of {len(problems)}"
            break
    return (
        f"the solver {_name(solver)} raised {type(error).__name__} {place}: {error}; it is given "
        f"theta as (N, ...), also perturbed, and may return NaN for a row without a solution"
    )


def _name(solver: Solver) -> str:
    return getattr(solver, "__name__", type(solver).__name__)


def _read(found: Any, problems: Tensor, solver: Solver) -> Tensor:
    if not isinstance(found, Tensor):
        try:
            found = torch.from_numpy(np.array(found))
        except (TypeError, ValueError) as error:
            raise StraightThroughError(
                f"the solver {_name(solver)} must return a tensor or an array of the solutions, "
                f"got {type(found).__name__}: {error}"
            ) from None
    if found.is_complex() or found.layout is not torch.strided:
        raise StraightThroughError(
            f"the solver {_name(solver)} must return a dense tensor of numbers, got {found.layout} "
            f"of {found.dtype}"
        )
    if found.shape != problems.shape:
        raise ShapeError(
            f"the solver {_name(solver)} must return solutions of the shape "
            f"{tuple(problems.shape)} of its theta, got {tuple(found.shape)}; of the number of "
            f"what is chosen make ones and zeros with torch.nn.functional.one_hot"
        )
    return found.detach().to(problems, copy=True)


def _shape(theta: Tensor, key: str, event_dim: int) -> Tensor:
    check_not_onnx("a solver", "export what comes before it")
    return torch.empty_like(theta)


def _mapped(
    info: Any, dims: tuple[Any, ...], theta: Tensor, key: str, event_dim: int
) -> tuple[Tensor, int]:
    return solved(theta.movedim(dims[0], 0), key, event_dim), 0


library.define("solved(Tensor theta, str key, int event_dim) -> Tensor")
library.impl("solved", _solved, "CompositeExplicitAutograd")
torch.library.register_fake("straightthrough::solved", _shape, lib=library)
torch.library.register_vmap("straightthrough::solved", _mapped, lib=library)
solved = torch.ops.straightthrough.solved


def held(theta: Tensor, key: str, event_dim: int) -> Tensor:
    """Return the solutions as a function of theta whose derivative is 0."""
    moves = theta.requires_grad or forward_mode()  # `is_grads_batched` has no `detach`
    found: Tensor = solved(theta.detach() if moves else theta, key, event_dim)
    return torch.where(torch.ones_like(found, dtype=torch.bool), found, theta)
