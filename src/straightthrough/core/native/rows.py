"""The walk over rows on GPUs: where rows lie, and what they are cut into."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 1024
"""Of a tile: as many short rows as that is, or one longer row."""

LONGEST = 16384
"""Classes of a row that one tile holds at most."""

BLOCK = 2048
"""Classes of a longer row that are worked on at once."""

BESIDE = 32
"""Rows that lie beside each other are read there if they are as many; fewer are put in order."""


def options(warps: int) -> dict[str, Any]:
    """Return what a kernel is compiled with; the default of the fusion is about to change."""
    return {"num_warps": warps, "enable_fp_fusion": True}


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
    def blocks(self) -> int:
        """How many blocks a long row has."""
        return triton.cdiv(self.classes, BLOCK)

    @property
    def short(self) -> bool:
        """Whether a row is no longer than a tile."""
        return self.classes <= LONGEST

    @property
    def tile(self) -> dict[str, Any]:
        """What a kernel of short rows is compiled for."""
        width = max(4, triton.next_power_of_2(self.classes))
        warps = min(16, max(4, width // 1024))
        return {
            "VECTOR": self.vector,
            "ROWS": max(1, ELEMENTS // width),
            "WIDTH": width,
            **options(warps),
        }

    @property
    def tiles(self) -> tuple[int]:
        """The grid of short rows."""
        return (triton.cdiv(self.rows, self.tile["ROWS"]),)


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
    beside = d < 0 and inner >= BESIDE and stride == inner and classes <= LONGEST
    if not beside or any(other.stride() != x.stride() for other in others):
        return Layout(rows, classes)
    return Layout(rows, classes, inner)


def laid_out(of: Layout, x: Tensor) -> Tensor:
    """Return a tensor as it is where its rows lie as they should, else in order."""
    return x if of.inner > 1 else x.contiguous()


# ---- in kernels ----


@triton.jit
def widened(value):
    """What numbers are computed in: half precision in float32."""
    return value if value.dtype == tl.float64 else value.to(tl.float32)


@triton.jit
def exp(x):
    """The exponential, as the hardware has it in float32: within 2^-22 and 2^-24 |x| of itself."""
    return tl.exp(x) if x.dtype == tl.float64 else tl.exp2(x * 1.4426950408889634)


@triton.jit
def rows_of_tile(ROWS: tl.constexpr):
    """The numbers of the rows of this program's tile, int64."""
    return tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)


@triton.jit
def places(row, j, classes, inner):
    """Where the classes `j` of rows lie."""
    return (row // inner * inner * classes + row % inner)[:, None] + (j * inner)[None, :]


@triton.jit
def loaded(x, at, inside, fill):
    """Numbers as they are computed with; `fill` where there are none."""
    return widened(tl.load(x + at, inside, fill))


@triton.jit
def put(to, at, value, inside):
    """Store numbers in the dtype that `to` points at."""
    tl.store(to + at, value.to(to.dtype.element_ty), inside)
