"""Codes, and the rows of a table: the GPU kernels of reference.py, same names, same order."""

import math

import torch
import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import rows, stored
from ...core.native.arguments import check_alike, check_rows, described, refuse
from ...core.native.elementary import bounded, exp, nearest, quotient
from ...core.native.rows import Layout, fits_a_tile, fresh_in, laid_out, layout, over_rows
from ...core.native.stored import number
from ...core.precision import compute_dtype
from . import reference

MOST_DIGITS = 63
"""Entries that a number spells, as each has two levels at least."""

MOST_LEVELS = 2**62

# ---- in kernels ----


@triton.jit
def entries(numbers: tl.constexpr, j, like: tl.constexpr):
    """The numbers of a row's entries, one for all or one each, beside each other."""
    value = tl.full(j.shape, numbers[0], like)
    for d in tl.static_range(1, len(numbers)):
        value = tl.where(j == d, tl.full(j.shape, numbers[d], like), value)
    return value[None, :]


@triton.jit
def unordered(v):
    """Whether a row holds NaN."""
    return tl.sum((v != v).to(tl.int32), 1) > 0


@triton.jit
def store_two(largest, place, following, row, top, chosen, after, known, inside):
    """Store of rows the largest, its place and the next; NaN, 0 and NaN of one that is unknown."""
    stored.store(largest, row, tl.where(known, top, float("nan")), inside)
    tl.store(place + row, tl.where(known, chosen, 0), inside)
    stored.store(following, row, tl.where(known, after, float("nan")), inside)


@triton.jit(do_not_specialize=["count"])
def two_largest_short(
    x, largest, place, following,
    count, vectors, inner_rows, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The largest of a tile's rows, its first place, and the next."""
    row, j, inside, at = rows.tile(count, vectors, inner_rows, VECTOR, ROWS, WIDTH)
    v = stored.load(x, at, inside, -float("inf"))
    top = tl.max(v, 1)
    chosen = tl.min(tl.where(v == top[:, None], j[None, :], WIDTH), 1)
    after = tl.max(tl.where(j[None, :] == chosen[:, None], -float("inf"), v), 1)
    known = unordered(v) == 0
    store_two(largest, place, following, row, top, chosen, after, known, row < count)


@triton.jit
def two_largest_long(
    x, largest, place, following, vectors, VECTOR: tl.constexpr, WIDTH: tl.constexpr
):
    """As `two_largest_short`."""
    classes = vectors * VECTOR
    top, chosen, after = rows.nothing(x) - float("inf"), 0, rows.nothing(x) - float("inf")
    nans = 0
    for first in range(0, classes, WIDTH):
        j, inside, at = rows.block(first, classes, WIDTH)
        v = stored.load(x, at, inside, -float("inf"))
        peak = tl.max(v, 0)
        here = tl.min(tl.where(v == peak, j, classes), 0)
        beside = tl.max(tl.where(j == here, -float("inf"), v), 0)
        after = tl.maximum(tl.maximum(after, beside), tl.minimum(top, peak))
        chosen, top = tl.where(peak > top, here, chosen), tl.maximum(top, peak)
        nans += tl.sum((v != v).to(tl.int32), 0)
    row = tl.program_id(0).to(tl.int64)
    store_two(largest, place, following, row, top, chosen, after, nans == 0, True)


@triton.jit
def store_code(code, index, row, at, inside, value, spelled, unknown, count):
    """Store codes and their numbers; NaN and -1 for a row that is unknown."""
    stored.store(code, at, tl.where(unknown[:, None], float("nan"), value), inside)
    tl.store(index + row, tl.where(unknown, -1, spelled), row < count)


@triton.jit
def inner(v, j, slope, SHIFT: tl.constexpr):
    """The argument u of the bound, tanh, and `e^(-2 |u|)`."""
    u = v * slope + entries(SHIFT, j, v.dtype)
    return u, exp(-2 * tl.abs(u))


@triton.jit(do_not_specialize=["count"])
def finite_scalars_kernel(
    z, code, index, slope,
    SYMMETRIC: tl.constexpr, REACH: tl.constexpr, OFFSET: tl.constexpr, SHIFT: tl.constexpr,
    HALF: tl.constexpr, MOST: tl.constexpr, PLACES: tl.constexpr,
    count, vectors, inner_rows, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The nearest levels of a tile's bounded entries, as codes, and the numbers of its rows."""
    row, j, inside, at = rows.tile(count, vectors, inner_rows, VECTOR, ROWS, WIDTH)
    v = stored.load(z, at, inside, 0.0)
    u, e = inner(v, j, stored.read(slope, z), SHIFT)
    size = quotient(1 - e, 1 + e)
    half = entries(HALF, j, v.dtype)
    level = tl.where(u < 0, -size, size) * entries(REACH, j, v.dtype) - entries(OFFSET, j, v.dtype)
    level = tl.floor(level + half + 0.5) if SYMMETRIC else nearest(level) + half
    level = tl.minimum(tl.maximum(level, 0.0), entries(MOST, j, v.dtype))
    spelled = tl.where(inside, level, 0.0).to(tl.int64) * entries(PLACES, j, tl.int64)
    value = quotient(level - half, half)
    store_code(code, index, row, at, inside, value, tl.sum(spelled, 1), unordered(v), count)


@triton.jit(do_not_specialize=["count"])
def finite_scalars_backward_kernel(
    z, grad, to, slope, SHIFT: tl.constexpr, TIMES: tl.constexpr,
    count, vectors, inner_rows, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The gradient times the derivative of the bound, `4 e / (1 + e)^2` times a number an entry."""
    _, j, inside, at = rows.tile(count, vectors, inner_rows, VECTOR, ROWS, WIDTH)
    v, g = stored.load(z, at, inside, 0.0), stored.load(grad, at, inside, 0.0)
    slope = stored.read(slope, z)
    _, e = inner(v, j, slope, SHIFT)
    below = 1 / (1 + e)
    derivative = slope * entries(TIMES, j, v.dtype) * (4 * e * below * below)
    value = g * tl.where(v == v, derivative, v)
    stored.store_gradient(to, at, bounded(value, g), inside)


@triton.jit(do_not_specialize=["count", "most"])
def codewords_kernel(
    table, numbers, to, most,
    count, vectors, inner_rows, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The rows of a table that numbers below `most` name, NaN for what is none."""
    row, j, inside, at = rows.tile(count, vectors, inner_rows, VECTOR, ROWS, WIDTH)
    chosen = tl.load(numbers + row, row < count, -1)
    known = ((chosen >= 0) & (chosen < most))[:, None]
    of = chosen[:, None] * (vectors * VECTOR) + j[None, :]
    value = stored.load(table, of, inside & known, 0.0)
    stored.store(to, at, tl.where(known, value, float("nan")), inside)


@triton.jit(do_not_specialize=["count"])
def signs_kernel(
    z, code, index, size,
    count, vectors, inner_rows, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Plus or minus `size`, and the numbers that rows of signs spell."""
    row, j, inside, at = rows.tile(count, vectors, inner_rows, VECTOR, ROWS, WIDTH)
    v, size = stored.load(z, at, inside, -1.0), stored.read(size, z)
    up = v >= 0
    spelled = tl.sum(up.to(tl.int64) << j[None, :].to(tl.int64), 1)
    value = tl.where(up, size, -size)
    store_code(code, index, row, at, inside, value, spelled, unordered(v), count)


@triton.jit(do_not_specialize=["count"])
def sphere_backward_kernel(
    z, grad, to,
    count, vectors, inner_rows, VECTOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """`(g - u <u, g>) / |z|`, u a row of z over its length; 0 where that is 0 or not finite."""
    _, _, inside, at = rows.tile(count, vectors, inner_rows, VECTOR, ROWS, WIDTH)
    v, g = stored.load(z, at, inside, 0.0), stored.load(grad, at, inside, 0.0)
    most = tl.max(tl.abs(v), 1)[:, None]
    u = quotient(v, most)
    squares, along = tl.sum(u * u, 1)[:, None], tl.sum(u * g, 1)[:, None]
    value = quotient((g - u * (along / squares)) / tl.sqrt(squares), most)
    value = tl.where(squares == squares, bounded(value, g), 0.0)
    stored.store_gradient(to, at, value, inside)


# ---- operators ----


def two_largest(scores):
    """The largest of each row, its first place, and the next."""
    check_rows("scores", scores)
    of = layout(scores)
    x, largest = laid_out(of, scores), scores.new_empty(scores.shape[:-1])
    place, following = torch.empty_like(largest, dtype=torch.int64), torch.empty_like(largest)
    given = x, largest, place, following
    if of.short:
        two_largest_short[of.tiles](*given, *of.arguments, **of.tile)
    else:
        two_largest_long[(of.rows,)](*given, of.classes // of.vector, **of.block)
    return largest, place, following


def finite_scalars(z, levels, slope, symmetric):
    """Codes, and the numbers of their rows."""
    check_levels(z, levels)
    reach, offset, shift, half, most = bounds(levels, symmetric)
    places = tuple(wrapped(math.prod(levels[:d])) for d in range(len(levels)))
    constants = symmetric, reach, offset, shift, half, most, places
    return numbered(finite_scalars_kernel, z, number(slope, z), *constants)


def finite_scalars_gradient(z, grad, levels, slope, symmetric):
    """The gradient to `z`."""
    check_levels(z, levels)
    reach, _, shift, half, _ = bounds(levels, symmetric)
    times = tuple(r / h for r, h in zip(reach, half, strict=True))
    return over_rows(finite_scalars_backward_kernel, None, z, grad, number(slope, z), shift, times)


def codewords(table, numbers):
    """Rows of a table, as they are computed with."""
    check_rows("table", table)
    if table.ndim != 2 or numbers.dtype != torch.int64 or numbers.device != table.device:
        refuse("table must be (K, D), and numbers int64 beside it, got ", described(numbers))
    if not fits_a_tile(table):
        return reference.codewords.__wrapped__(table, numbers)
    made = table.new_empty(*numbers.shape, table.shape[-1], dtype=compute_dtype(table.dtype))
    of = Layout(numbers.numel(), table.shape[-1])
    given = table.contiguous(), numbers.contiguous(), made, len(table)
    codewords_kernel[of.tiles](*given, *of.arguments, **of.tile)
    return made


def signs(z, size):
    """Signs, and the numbers that their rows spell."""
    check_rows("z", z)
    if z.shape[-1] > MOST_DIGITS:
        refuse("z must have at most ", MOST_DIGITS, " entries a row, got ", z.shape[-1])
    return numbered(signs_kernel, z, number(size, z))


def sphere_gradient(z, grad):
    """The gradient to `z` of one to z over its length; of a long row it is the reference's."""
    check_rows("z", z)
    check_alike("grad", grad, z)
    if not fits_a_tile(z, 2):
        return reference.sphere_gradient.__wrapped__(z, grad)
    return over_rows(sphere_backward_kernel, None, z, grad, held=2)


def check_levels(z, levels):
    """Refuse what is not a number of levels an entry, or more of them than a number spells."""
    check_rows("z", z)
    if len(levels) != z.shape[-1]:
        refuse("levels must be one an entry of ", described(z), ", got ", len(levels))
    if len(levels) > MOST_DIGITS:
        refuse("levels must be at most ", MOST_DIGITS, ", got ", len(levels))
    for n in levels:
        if not 2 <= n <= MOST_LEVELS:
            refuse("levels must lie in [2, ", MOST_LEVELS, "], got ", n)


def bounds(levels, symmetric):
    """The reach, offset and shift of what bounds an entry, half of its levels and the last one.

    One of each for all entries where they are alike.
    """
    alike = levels[:1] if len(set(levels)) == 1 else levels
    return tuple(zip(*(bounds_of(n, symmetric) for n in alike), strict=True))


def bounds_of(n, symmetric):
    """Those of one entry, as `Grid` has them."""
    last = n - 1.0
    reach = last / 2 * (1.0 if symmetric else 1 + 1e-3)
    offset = 0.0 if symmetric or n % 2 else 0.5
    return reach, offset, math.atanh(offset / reach), last / 2 if symmetric else n // 2 * 1.0, last


def wrapped(n):
    """A number as int64 has it."""
    return (n + 2**63) % 2**64 - 2**63


def numbered(kernel, z, *rest):
    """The codes that a kernel makes of rows, and their numbers."""
    of = layout(z)
    z, code = laid_out(of, z), fresh_in(of, z)
    index = torch.empty(z.shape[:-1], dtype=torch.int64, device=z.device)
    kernel[of.tiles](z, code, index, *rest, *of.arguments, **of.tile)
    return code, index


implement(
    two_largest,
    finite_scalars,
    finite_scalars_gradient,
    codewords,
    signs,
    sphere_gradient,
)
