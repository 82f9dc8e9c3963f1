"""Which kernels have the formulas of a grid, said of the function that is its formula.

A subclass of a grid that rounds in a way of its own has none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ...core.kernels import known
from ...core.noise import Noise
from ...core.precision import compute_dtype
from ...grids import MX, NVFP4, Float, Grid, Int, Ternary
from ...grids.block import Blocks
from .reference import (
    floats,
    floats_and_inside,
    floats_backward,
    integers,
    integers_and_inside,
    integers_backward,
    shifted,
    shifted_and_inside,
    shifted_backward,
)
from .reference_drawn import (
    floats_drawn,
    floats_drawn_and_inside,
    floats_drawn_backward,
    integers_drawn,
    integers_drawn_and_inside,
    integers_drawn_backward,
)

LARGEST_ON_GPUS = 1024
"""Blocks that kernels for GPUs can read are powers of two up to that, the elements of a tile."""


class Kernels(NamedTuple):
    """The kernels of a grid; each takes tensors, then `arguments`, and noise where they draw.

    `name` is that of the first, and on GPUs, where some have none, what serves it serves all; it is
    empty where none does.
    """

    name: str
    values: Callable[..., Tensor]
    values_and_inside: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, ...]]
    arguments: tuple[Any, ...]


class Served(NamedTuple):
    """A call that kernels serve: which, the tensors that lay the grid a row, and the noise."""

    kernels: Kernels
    rows: tuple[Tensor, ...]
    noise: tuple[Noise, ...] = ()

    def values(self, x: Tensor) -> Tensor:
        return self.kernels.values(x, *self.rows, *self.kernels.arguments, *self.noise)

    def values_and_inside(self, x: Tensor, by_value: bool) -> tuple[Tensor, Tensor]:
        given = (*self.rows, *self.kernels.arguments, by_value, *self.noise)
        return self.kernels.values_and_inside(x, *given)

    def backward(
        self, x: Tensor, grad: Tensor, by_value: bool, factor: float
    ) -> tuple[Tensor, ...]:
        given = (*self.rows, *self.kernels.arguments, by_value, factor, *self.noise)
        return self.kernels.backward(x, grad, *given)


@functools.cache
def kernels_of(grid: Grid, shift: str, drawn: bool = False) -> Kernels | None:
    """Return the kernels of a grid that is shifted by a zero point, by an offset, or not at all.

    Where numbers are drawn it is not shifted.
    """
    of: Any = getattr(type(grid).rounded, "kernels", None)
    return None if of is None else of(grid, shift, drawn)


def _of_integers(grid: Int | Ternary, shift: str, drawn: bool) -> Kernels:
    ends = grid.low, grid.high
    if drawn:
        return _kernels(integers_drawn, integers_drawn_and_inside, integers_drawn_backward, *ends)
    if not shift:
        return _kernels(integers, integers_and_inside, integers_backward, *ends)
    return _kernels(shifted, shifted_and_inside, shifted_backward, shift == "offset", *ends)


def _of_floats(drawn: bool, name: str, block: int, mode: str) -> Kernels:
    given = name, block, mode
    if drawn:
        found = _kernels(floats_drawn, floats_drawn_and_inside, floats_drawn_backward, *given)
    else:
        found = _kernels(floats, floats_and_inside, floats_backward, *given)
    on_gpus = block <= LARGEST_ON_GPUS and not block & (block - 1)
    return found if on_gpus else found._replace(name="")


def _kernels(values: Any, values_and_inside: Any, backward: Any, *arguments: Any) -> Kernels:
    return Kernels(values.__name__, values, values_and_inside, backward, arguments)


def _of_format(grid: Float, shift: str, drawn: bool) -> Kernels | None:
    return None if shift else _of_floats(drawn, grid.name, 0, "")


def _of_blocks(grid: Blocks, shift: str, drawn: bool) -> Kernels | None:
    mode: Any = getattr(type(grid).of_largest, "mode", None)
    if shift or mode is None or grid.size % 8:  # a byte has the bits of 8
        return None
    return _of_floats(drawn, grid.of.name, grid.size, mode(grid))


Int.rounded.kernels = Ternary.rounded.kernels = _of_integers  # type: ignore[attr-defined]  # functions take any
Float.rounded.kernels = _of_format  # type: ignore[attr-defined]  # likewise
Blocks.rounded.kernels = _of_blocks  # type: ignore[attr-defined]  # likewise
MX.of_largest.mode = lambda grid: grid.mode  # type: ignore[attr-defined]  # likewise
NVFP4.of_largest.mode = lambda grid: "nvfp4"  # type: ignore[attr-defined]  # likewise


def in_rows(x: Tensor, *laid: Tensor) -> tuple[Tensor, ...] | None:
    """Return a scale, and a shift, as kernels take them, a number a row; None where they can't."""
    wide = compute_dtype(x.dtype)
    for each in laid:
        if not known(each) or not one_a_row(x, each):
            return None
    numbers = tuple(each if each.dtype == wide else each.to(wide) for each in laid)
    if len(numbers) == 1:
        return numbers
    rows = max(each.numel() for each in numbers)
    if any(each.numel() not in (1, rows) for each in numbers):
        return None
    return tuple(each.reshape(-1).expand(rows) for each in numbers)


def one_a_row(x: Tensor, laid: Tensor) -> bool:
    """Whether kernels can read a scale or a zero point: one for all, or one a row.

    Rows are of leading dimensions, and multiples of 32; there is at least one.
    """
    if laid.numel() < 2:
        return laid.numel() == 1
    own = (1,) * (x.ndim - laid.ndim) + tuple(laid.shape)
    lead = len(own)
    while lead and own[lead - 1] == 1:
        lead -= 1
    return own[:lead] == tuple(x.shape[:lead]) and x.shape[lead:].numel() % 32 == 0
