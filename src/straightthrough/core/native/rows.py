"""The walk over rows on GPUs: where rows lie, and what they are cut into."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import stored
from .arguments import check_alike, check_rows
from .stored import options

ELEMENTS = 1024
"""Of a tile: as many short rows as that is, or one longer row."""

LONGEST = 16384
"""Numbers in single precision that the registers of a tile hold, beside what is made of them."""

BLOCK = 2048
"""Classes of a longer row that are worked on at once."""

LANES = 64 if torch.version.hip else 32
"""Of a warp."""

BESIDE = 32
"""Rows that lie beside each other are read there if they are as many; fewer are put in order."""


class Layout(NamedTuple):
    """Where rows lie: one after the other or, if `inner` is not 1, that many beside each other.

    Their classes are `inner` apart then, as the pixels of an image are whose channels are classes.
    """

    rows: int
    classes: int
    inner: int = 1

    @property
    def vector(self) -> int:
        """A power of two that divides the number of classes, so that as many are read at once."""
        return next(size for size in (16, 8, 4, 2, 1) if self.classes % size == 0)

    @property
    def short(self) -> bool:
        """Whether a row alone is no longer than a tile."""
        return self.classes <= LONGEST

    @property
    def arguments(self) -> tuple[int, int, int]:
        """What a kernel of short rows is told: how many, the vectors of one, and `inner`."""
        return self.rows, self.classes // self.vector, self.inner

    @property
    def tile(self) -> dict[str, Any]:
        """What such a kernel is compiled for."""
        return self.tile_of(1024)

    def tile_of(self, most: int) -> dict[str, Any]:
        """The same, in programs of at most so many lanes; of fewer, each has more registers."""
        width = max(4, triton.next_power_of_2(self.classes))
        lanes = min(most, max(128, width // 16))
        return {
            "VECTOR": self.vector,
            "ROWS": max(1, ELEMENTS // width),
            "WIDTH": width,
            **options(lanes // LANES),
        }

    @property
    def tiles(self) -> tuple[int]:
        """The grid of short rows."""
        return (triton.cdiv(self.rows, self.tile["ROWS"]),)

    @property
    def blocks(self) -> int:
        """How many blocks a long row has."""
        return triton.cdiv(self.classes, BLOCK)

    @property
    def block(self) -> dict[str, Any]:
        """What a kernel of long rows is compiled for."""
        return {"VECTOR": self.vector, "WIDTH": BLOCK, **options(256 // LANES)}


def fits_a_tile(x: Tensor, held: int = 1) -> bool:
    """Whether a row of `x` is no longer than a tile, of which a formula holds so many at once.

    Double precision takes more than twice the registers.
    """
    return (4 if x.dtype == torch.float64 else 1) * held * x.shape[-1] <= LONGEST


def layout(x: Tensor, *others: Tensor) -> Layout:
    """Return where the rows of `x` lie, and of the others as well."""
    *sizes, classes = x.shape
    rows = x.numel() // classes
    *strides, stride = x.stride()
    inner, d = 1, len(sizes) - 1
    while d >= 0 and strides[d] == inner:
        inner *= sizes[d]
        d -= 1
    outer = inner * classes
    while d >= 0 and strides[d] == outer:
        outer *= sizes[d]
        d -= 1
    beside = d < 0 and inner >= BESIDE and stride == inner and fits_a_tile(x, 2)
    if not beside or any(other.stride() != x.stride() for other in others):
        return Layout(rows, classes)
    return Layout(rows, classes, inner)


def laid_out(of: Layout, x: Tensor) -> Tensor:
    """Return a tensor as it is where its rows lie as they should, else in order."""
    return x if of.inner > 1 else x.contiguous()


def fresh_in(of: Layout, x: Tensor) -> Tensor:
    """Return a new tensor whose rows lie as those of `x` are read."""
    order = torch.preserve_format if of.inner > 1 else torch.contiguous_format
    return torch.empty_like(x, memory_format=order)


def over_rows(
    short: Any, long: Any, x: Tensor, grad: Tensor | None, *rest: Any, held: int = 1
) -> Tensor:
    """Return what a kernel makes of rows, and of the gradient to them where one is given.

    A long row is one program's, which goes over it block by block. Of a short one the kernel holds
    `held` times as many numbers as most do.
    """
    check_rows("the input", x)
    given = [x]
    if grad is not None:
        check_alike("grad", grad, x)
        given.append(grad)
    fits = fits_a_tile(x, held)
    of = layout(*given)
    given, result = [laid_out(of, each) for each in given], fresh_in(of, x)
    if fits:
        short[of.tiles](*given, result, *rest, *of.arguments, **of.tile)
    else:
        long[(of.rows,)](*given, result, *rest, of.classes // of.vector, **of.block)
    return result


# ---- in kernels ----

PART = tl.constexpr(512)  # classes of a one-hot that are written at once


@triton.jit
def tile(count, vectors, inner, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """The tile of a program: its rows, its classes, which of them are there, and where they lie."""
    row, j = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    inside, at = placed(row, j, count, vectors, inner, VECTOR)
    return row, j, inside, at


@triton.jit
def placed(row, j, count, vectors, inner, VECTOR: tl.constexpr):
    """Which of some classes of rows are there, and where they lie."""
    inside = (row < count)[:, None] & (j < vectors * VECTOR)[None, :]
    at = first_class(row, vectors, inner, VECTOR)[:, None] + (j * inner)[None, :]
    return inside, at


@triton.jit
def first_class(row, vectors, inner, VECTOR: tl.constexpr):
    """Where the first class of rows lies."""
    return row // inner * inner * (vectors * VECTOR) + row % inner


@triton.jit
def store_hot(
    to, chosen, sound, row, count, vectors, inner, VECTOR: tl.constexpr, WIDTH: tl.constexpr
):
    """Store the one-hots of a class a row, NaN in a row that is not sound.

    A long row is written in parts, so that registers that held it need not hold where it lies.
    """
    SIZE: tl.constexpr = WIDTH if WIDTH < PART else PART
    off = tl.where(sound, 0.0, float("nan"))[:, None]
    end = WIDTH if WIDTH == SIZE else vectors * VECTOR  # of a loop that is not unrolled
    for first in range(0, end, SIZE):
        j = first + tl.arange(0, SIZE)
        inside, at = placed(row, j, count, vectors, inner, VECTOR)
        stored.store(to, at, off + (j[None, :] == chosen[:, None]).to(tl.float32), inside)


@triton.jit
def block(first, classes, WIDTH: tl.constexpr):
    """The classes of a block of this program's long row, which are there, and where they lie."""
    j = first + tl.arange(0, WIDTH)
    return j, j < classes, tl.program_id(0).to(tl.int64) * classes + j


@triton.jit
def nothing(x):
    """Zero, as a number of what values at `x` are computed in."""
    return tl.full([], 0.0, tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)


@triton.jit
def least(x):
    """The least such number, below which a maximum is none."""
    if x.dtype.element_ty == tl.float64:
        value = tl.full([], -1.7976931348623157e308, tl.float64)
    else:
        value = tl.full([], -3.4028234663852886e38, tl.float32)
    return value


@triton.jit
def at_class(value, j, chosen):
    """The entries of a tile at a class a row."""
    return tl.sum(tl.where(j[None, :] == chosen[:, None], value, 0.0), 1)


@triton.jit
def relative_to(likeliest, g):
    """Gradients relative to that of the likeliest class.

    J(y) sends constants to 0, and so a row that is all but certain loses no digits.
    """
    return g - tl.max(tl.where(likeliest, g, -float("inf")), 1)[:, None]


@triton.jit
def pulled(w, g, likeliest, times):
    """`J(y) g` times a factor a row, y in proportion to `w`."""
    g = relative_to(likeliest, g)
    total = tl.sum(w, 1)
    mean = tl.sum(w * g, 1) / total
    return w * (times / total)[:, None] * (g - mean[:, None])
