"""The arguments of quantization, checked: what lays a grid, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import (
    ArgumentError,
    DtypeError,
    ShapeError,
    check_dense,
    check_floating,
    check_not_nested,
    check_not_traced,
    check_number,
)
from ...core.precision import compute_dtype
from ...grids import Grid, Int


def check_grid(grid: object) -> None:
    """Raise `ArgumentError` unless `grid` is one."""
    if not isinstance(grid, Grid):
        raise ArgumentError(f"grid must be one of st.grids, such as Int(4), got {grid!r}")


def laid(name: str, given: Tensor | float, x: Tensor, check: Callable[[str, Any], Any]) -> Tensor:
    """Return what lays a grid, checked: a number as a 0-d tensor."""
    if not isinstance(given, Tensor):
        check_not_traced(given)
        if not isinstance(given, int | float | np.number):
            check_floating(name, given)
        number, wide = check(name, given), compute_dtype(x.dtype)
        info = torch.finfo(wide)
        # A positive number may be 0 there.
        if abs(number) > info.max or 0 < number < info.smallest_normal * info.eps:
            raise ArgumentError(f"{name} is beyond the range of {wide}, got {number}")
        if x.is_nested:
            check_dense("x", x)
        return x.new_full((), number, dtype=wide)  # on the mesh that x lies on, too
    check_floating(name, given)
    if given.dtype not in (x.dtype, compute_dtype(x.dtype)):
        wanted = " or ".join(dict.fromkeys(map(str, (x.dtype, compute_dtype(x.dtype)))))
        raise DtypeError(
            f"{name} must be {wanted} beside {x.dtype}, got {given.dtype}; "
            f"convert it with {name}.to({x.dtype})"
        )
    return beside(name, given, x)


def zero_as_tensor(given: Tensor | int, x: Tensor, grid: Grid) -> Tensor:
    """Return a zero point, checked."""
    if not isinstance(grid, Int):
        raise ArgumentError(
            f"zero_point is for st.grids.Int, got {given!r} with {grid}; use offset="
        )
    if isinstance(given, Tensor):
        if given.is_floating_point():
            return laid("zero_point", given, x, check_number)
        check_dense("zero_point", given)
        if given.dtype == torch.bool or given.is_complex():
            raise DtypeError(f"zero_point must be of whole numbers, got {given.dtype}")
        return beside("zero_point", given.to(compute_dtype(x.dtype)), x)
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not whole or not grid.least <= given <= grid.most:
        raise ArgumentError(
            f"zero_point must be a tensor or a whole number in [{grid.least}, {grid.most}], got "
            f"{given!r}"
        )
    return x.new_full((), given, dtype=compute_dtype(x.dtype))


def beside(name: str, given: Tensor, x: Tensor) -> Tensor:
    """Return a tensor, if it lies beside `x` and broadcasts to its shape."""
    if given.is_nested:
        check_not_nested(name, given)
    if given.device != x.device:
        raise ArgumentError(f"{name} must be on {x.device} as x is, got {given.device}")
    own, shape = given.shape, x.shape
    fits = given.ndim == 0 or (
        len(own) <= len(shape)
        # Not by `in`, which compiled code answers for sizes that it leaves open, and wrongly.
        and all(s == 1 or s == due for s, due in zip(reversed(own), reversed(shape), strict=False))
    )
    if not fits:
        raise ShapeError(
            f"{name} of shape {tuple(own)} does not broadcast to x of shape {tuple(shape)}"
        )
    return given
