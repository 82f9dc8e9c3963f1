"""The assignment that keeps the most, by scipy: an operator that compiled code calls whole."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import StraightThroughError, check_not_onnx
from ...core.library import library

LARGE = 1e8
"""Beyond it a number may be padding, beside which others have too few digits in float64."""


def _scipy() -> ModuleType:
    try:
        from scipy import optimize
    except ImportError:
        raise StraightThroughError(
            "st.assignment needs scipy, which solves it; pip install 'straightthrough[assignment]'"
        ) from None
    return optimize


def _matched(scores: Tensor) -> Tensor:
    """Return the column of every row, `(..., n)`; -1 where no assignment is allowed."""
    solve = _scipy().linear_sum_assignment
    size = scores.shape[-1]
    squares = scores.detach().double().cpu().numpy().reshape(-1, size, size)
    columns = np.full(squares.shape[:2], -1, dtype=np.int64)
    valid = (squares < np.inf).all((1, 2))
    sizes = np.abs(squares).max((1, 2), where=np.isfinite(squares), initial=0)
    # Sums of the largest may be no numbers; a power of 2 keeps their order.
    squares = np.ldexp(squares, -np.frexp(sizes)[1][:, None, None])
    padded = sizes > LARGE
    if padded.any():
        squares[padded] = _drawn_near(_without_constants(squares[padded]))
    for at in np.flatnonzero(valid):
        with contextlib.suppress(ValueError):  # it says "cost matrix is infeasible"
            columns[at] = solve(squares[at], maximize=True)[1]
    return torch.from_numpy(columns).reshape(scores.shape[:-1]).to(scores.device)


def _without_constants(squares: Any) -> Any:
    """Return squares whose rows and columns of one number, as padding is, are of 0.

    That assigns alike, and beside a row of -1e30 the others have no digits left.
    """
    for axis in (2, 1):
        finite = np.isfinite(squares)
        most = squares.max(axis, where=finite, initial=-np.inf, keepdims=True)
        least = squares.min(axis, where=finite, initial=np.inf, keepdims=True)
        squares = squares - np.where(most == least, most, 0)
    return squares


def _drawn_near(squares: Any) -> Any:
    """Return squares whose least number, far below all others, is only so low as to be avoided.

    As few as can be are assigned of what a mask put at -1e30, and the others keep their digits.
    """
    finite = np.isfinite(squares)
    least = squares.min((1, 2), where=finite, initial=np.inf, keepdims=True)
    above = finite & (squares > least)
    others = np.abs(squares).max((1, 2), where=above, initial=0, keepdims=True)
    far = (squares == least) & (others > 0) & (least < -(2.0**30) * others)
    return np.where(far, -(2 * squares.shape[-1] + 1) * others, squares)


def _shape(scores: Tensor) -> Tensor:
    check_not_onnx("an assignment", "export what comes before it")
    return scores.new_empty(scores.shape[:-1], dtype=torch.int64)


def _mapped(info: Any, dims: tuple[int], scores: Tensor) -> tuple[Tensor, int]:
    return matched(scores.movedim(dims[0], 0)), 0


library.define("matched(Tensor scores) -> Tensor")
library.impl("matched", _matched, "CompositeExplicitAutograd")
torch.library.register_fake("straightthrough::matched", _shape, lib=library)
torch.library.register_vmap("straightthrough::matched", _mapped, lib=library)
matched = torch.ops.straightthrough.matched
