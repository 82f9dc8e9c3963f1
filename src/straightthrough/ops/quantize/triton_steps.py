"""What the GPU kernels of quantized numbers share: scales a row, rounding, and sums a row.

A row of a tile is eight neighbours, which have one scale. What they add to a row's sums is summed
by parts, each in one tile; where a row has several, a second launch adds these up.
"""

import torch
import triton
import triton.language as tl

from ...core.native import elements, stored
from ...core.native.arguments import check_floating, check_noise, described, refuse
from ...core.native.elements import in_order, launch
from ...core.native.stored import number, options

ALIGNED = 32
"""Rows are multiples of so many elements, where there are several."""

PARTS = 1024
"""Sums of parts that a program adds up at once."""

# ---- in kernels ----


@triton.jit
def each_row(numbers, octets, count, ONE: tl.constexpr, SIZE: tl.constexpr):
    """The numbers of the rows that a tile's eights are of, [SIZE / 8, 1]; a row has `octets`."""
    if ONE:
        value = tl.load(numbers)
    else:
        index: tl.constexpr = tl.uint64 if octets.dtype == tl.int64 else tl.uint32
        first, i = tl.program_id(0).to(tl.int64) * (SIZE // 8), tl.arange(0, SIZE // 8)
        local = (first % octets).to(index) + i.to(index)
        row = first // octets + (local // octets.to(index)).to(tl.int64)
        value = tl.load(numbers + row, first + i < count // 8, 1.0)[:, None]
    return value


@triton.jit
def valid(scale):
    """A scale, NaN where it is none."""
    return tl.where((scale > 0) & (scale < float("inf")), scale, float("nan"))


@triton.jit
def drawn(v, u):
    """The whole number below, or the one above where a uniform is less than the fraction."""
    below = tl.floor(v)
    return tl.where(u < v - below, below + 1, below)


@triton.jit
def clamped(v, low, high):
    """Numbers from `low` to `high`; what is NaN stays it."""
    v = tl.where(v < low, low, v)
    return tl.where(v > high, high, v)


@triton.jit
def store_sums(to, terms, count, UNIT: tl.constexpr, SIZE: tl.constexpr):
    """Store the sums of the terms of a tile, [SIZE / 8, 8], UNIT after UNIT."""
    sums = tl.sum(tl.reshape(tl.sum(terms, 1), [SIZE // UNIT, UNIT // 8]), 1)
    unit = tl.program_id(0).to(tl.int64) * (SIZE // UNIT) + tl.arange(0, SIZE // UNIT)
    tl.store(to + unit, sums, unit * UNIT < count)


@triton.jit
def store_pulled(
    to, of_scale, of_shift, factor, v, q, g, within, at, inside, count,
    UNIT: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Store the gradient in the range, and sums of the scale's and of what is beyond the range."""
    stored.store(to, at, tl.where(within, g, 0.0), inside)
    share = tl.where(q == q, g * (q - tl.where(within, v, 0.0)), 0.0)
    store_sums(of_scale, share * stored.read(factor, to), count, UNIT, SIZE)
    if of_shift is not None:
        beyond = tl.where((q == q) & (within == 0), g, 0.0)
        store_sums(of_shift, beyond, count, UNIT, SIZE)


@triton.jit
def add_up(parts_of, to, rows, parts, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Store the sum of the parts of every row."""
    row, j = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    at = parts_of + row[:, None] * parts
    total = tl.zeros([ROWS, WIDTH], parts_of.dtype.element_ty)
    for first in range(0, parts, WIDTH):
        part = first + j[None, :]
        total += tl.load(at + part, (row < rows)[:, None] & (part < parts), 0.0)
    tl.store(to + row, tl.sum(total, 1), row < rows)


@triton.jit
def sums_kernel(
    of_scale, of_shift, to_scale, to_shift, rows, parts, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """The sums of rows out of those of their parts."""
    add_up(of_scale, to_scale, rows, parts, ROWS, WIDTH)
    if of_shift is not None:
        add_up(of_shift, to_shift, rows, parts, ROWS, WIDTH)


# ---- operators ----


def check_scales(x, scales):
    """Refuse what is no floating input, and what is not one number a row of it."""
    check_floating("x", x)
    due = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = scales.numel()
    whole = rows > 0 and x.numel() % rows == 0
    whole = whole and (rows == 1 or x.numel() // rows % ALIGNED == 0)
    if scales.dtype != due or scales.device != x.device or not whole:
        refuse(
            *("scales must be one number a row of ", described(x), ", in what it is computed in, "),
            *("and rows of a multiple of ", ALIGNED, ", got ", described(scales)),
        )


def check_shifts(shifts, scales):
    """Refuse what is not one number a scale."""
    given = shifts.dtype, shifts.device, shifts.numel()
    if given != (scales.dtype, scales.device, scales.numel()):
        refuse(
            "shifts must be one number a scale, of ", described(scales), ", got ", described(shifts)
        )


def one_for_all(numbers):
    """Whether all are one number, which a view may repeat."""
    return numbers.numel() == 1 or not any(numbers.stride())


def each_in_order(numbers):
    """Numbers in order, where they are not all one."""
    return numbers if one_for_all(numbers) else numbers.contiguous()


def laying(x, scales):
    """What a kernel is told of scales: they, and the eights of a row; and is compiled for."""
    length = x.numel() // scales.numel()
    return (each_in_order(scales), length // 8), {"ONE": one_for_all(scales)}


def drawing(noise, x):
    """What a kernel is told of a seed and an offset, if they are given; and is compiled for."""
    if noise:
        check_noise(*noise, x)
    seed, offset = noise or (None, 0)
    return (seed, offset), {"ALIGNED": offset % 8 == 0}


def pulled(kernel, x, grad, scales, *rest, factor, shifted, **compiled_for):
    """The gradient to `x`, and the sums of the scales; those of the shifts too, if `shifted`."""
    x, to = in_order(x)
    rows, length = scales.numel(), x.numel() // scales.numel()
    unit = elements.ELEMENTS if rows == 1 or not length else length & -length
    unit = min(unit, elements.ELEMENTS)
    parts = triton.cdiv(length, unit)
    sums = [scales.new_empty(scales.shape) for _ in range(1 + shifted)]
    of_parts = sums if parts == 1 else [scales.new_empty(rows * parts) for _ in sums]
    missing = [None] * (2 - len(sums))
    given = x, grad.contiguous(), to, *of_parts, *missing, number(factor, x)
    launch(kernel, x, *given, *rest, UNIT=unit, fused=False, **compiled_for)
    if parts != 1:
        width = min(PARTS, triton.next_power_of_2(max(1, parts)))
        tile = {"ROWS": PARTS // width, "WIDTH": width}
        given = *of_parts, *missing, *sums, *missing, rows, parts
        sums_kernel[(triton.cdiv(rows, tile["ROWS"]),)](*given, **tile, **options(4))
    return to, *sums
