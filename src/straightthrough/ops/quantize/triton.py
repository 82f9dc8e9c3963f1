"""Whole numbers times a scale a row, and their gradients: the GPU kernels of reference.py.

Same names, same order.
"""

import torch
import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import elements, philox, stored
from ...core.native.arguments import check_alike, check_bits, check_floating
from ...core.native.elementary import nearest, quotient
from ...core.native.elements import empty_bits, in_order, launch
from ...core.native.stored import number
from .triton_steps import (
    check_scales,
    check_shifts,
    clamped,
    drawing,
    drawn,
    each_in_order,
    each_row,
    laying,
    one_for_all,
    pulled,
    store_pulled,
    valid,
)

# ---- in kernels ----


@triton.jit
def placed(
    x, scales, octets, shifts, low, high, seed, offset, at, inside, count,
    BY_OFFSET: tl.constexpr, BY_VALUE: tl.constexpr, ONE: tl.constexpr, ONE_SHIFT: tl.constexpr,
    ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """A tile in steps, what it becomes, what lies in the range, the scales and the shifts."""
    v, zero = stored.load(x, at, inside, 0.0), 0.0
    low, high = stored.read(low, x), stored.read(high, x)
    scale = valid(each_row(scales, octets, count, ONE, SIZE))
    by = each_row(shifts, octets, count, ONE_SHIFT, SIZE) if shifts is not None else 0.0
    if BY_OFFSET:
        v = v - by
    elif shifts is not None:
        zero = nearest(by)
    v = quotient(v, scale)
    near = nearest(v)
    if seed is None:
        whole = near
    else:
        double: tl.constexpr = v.dtype == tl.float64
        whole = drawn(v, elements.uniforms(seed, offset, philox.DRAW, double, ALIGNED, SIZE))
    q = clamped(whole + zero, low, high) - zero
    if BY_VALUE:
        within = (v > low - zero) & (v < high - zero)
    else:
        within = (near + zero >= low) & (near + zero <= high)
    return v, q, within, scale, by


@triton.jit(do_not_specialize=["octets", "offset"])
def integers_kernel(
    x, y, bits, scales, octets, shifts, low, high, seed, offset: tl.int64, count,
    BY_OFFSET: tl.constexpr, BY_VALUE: tl.constexpr, ONE: tl.constexpr, ONE_SHIFT: tl.constexpr,
    ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """What elements become and, if there are `bits`, those of what lies in the range."""
    at, inside = elements.tile(count, SIZE)
    _, q, within, scale, by = placed(
        x, scales, octets, shifts, low, high, seed, offset, at, inside, count,
        BY_OFFSET, BY_VALUE, ONE, ONE_SHIFT, ALIGNED, SIZE,
    )  # fmt: skip
    value = q * scale
    stored.store(y, at, value + by if BY_OFFSET else value, inside)
    if bits is not None:
        elements.store_bits(bits, within & inside, count, SIZE)


@triton.jit(do_not_specialize=["octets", "offset"])
def integers_backward_kernel(
    x, grad, to, of_scale, of_shift, factor,
    scales, octets, shifts, low, high, seed, offset: tl.int64, count,
    BY_OFFSET: tl.constexpr, BY_VALUE: tl.constexpr, ONE: tl.constexpr, ONE_SHIFT: tl.constexpr,
    ALIGNED: tl.constexpr, UNIT: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The gradient in the range, and sums of `g (q - v)` there and `g q` beyond; those of `g`."""
    at, inside = elements.tile(count, SIZE)
    g = stored.load(grad, at, inside, 0.0)
    v, q, within, _, _ = placed(
        x, scales, octets, shifts, low, high, seed, offset, at, inside, count,
        BY_OFFSET, BY_VALUE, ONE, ONE_SHIFT, ALIGNED, SIZE,
    )  # fmt: skip
    store_pulled(to, of_scale, of_shift, factor, v, q, g, within, at, inside, count, UNIT, SIZE)


@triton.jit
def passed_bits_kernel(grad, bits, to, count, PACKED: tl.constexpr, SIZE: tl.constexpr):
    """The gradient where the bit is set."""
    at, inside = elements.tile(count, SIZE)
    g = tl.load(grad + at, inside, 0.0)
    kept = elements.truths(bits, at, inside, count, PACKED, SIZE)
    tl.store(to + at, tl.where(kept, g, tl.zeros_like(g)), inside)


@triton.jit(do_not_specialize=["offset"])
def round_kernel(x, y, seed, offset: tl.int64, count, ALIGNED: tl.constexpr, SIZE: tl.constexpr):
    """One of the two whole numbers beside each element."""
    at, inside = elements.tile(count, SIZE)
    v = stored.load(x, at, inside, 0.0)
    u = elements.uniforms(seed, offset, philox.DRAW, v.dtype == tl.float64, ALIGNED, SIZE)
    stored.store(y, at, drawn(v, u), inside)


# ---- operators ----


def integers(x, scales, low, high):
    """The nearest multiples of scales."""
    return values(x, scales, None, low, high)


def integers_and_inside(x, scales, low, high, by_value):
    """They, and the bits of the range."""
    return values_and_inside(x, scales, None, low, high, by_value)


def passed_bits(grad, bits):
    """The gradient where bits are set."""
    check_floating("grad", grad)
    check_bits("bits", bits, grad, 1)
    grad, to = in_order(grad)
    packed = bits.dtype == torch.uint8
    launch(passed_bits_kernel, grad, grad, bits.contiguous(), to, PACKED=packed)
    return to


def integers_backward(x, grad, scales, low, high, by_value, factor):
    """The gradients to `x` and to scales."""
    return backward(x, grad, scales, None, low, high, by_value, factor)


def integers_drawn(x, scales, low, high, seed, offset):
    """Multiples of scales, drawn."""
    return values(x, scales, None, low, high, noise=(seed, offset))


def integers_drawn_and_inside(x, scales, low, high, by_value, seed, offset):
    """They, and the bits of the range."""
    return values_and_inside(x, scales, None, low, high, by_value, noise=(seed, offset))


def integers_drawn_backward(x, grad, scales, low, high, by_value, factor, seed, offset):
    """The gradients to `x` and to scales."""
    return backward(x, grad, scales, None, low, high, by_value, factor, noise=(seed, offset))


def stochastic_round(x, seed, offset):
    """Whole numbers, drawn."""
    check_floating("x", x)
    noise, compiled_for = drawing((seed, offset), x)
    x, y = in_order(x)
    launch(round_kernel, x, x, y, *noise, **compiled_for)
    return y


def shifted(x, scales, shifts, by_offset, low, high):
    """The nearest multiples of scales, shifted."""
    return values(x, scales, shifts, low, high, by_offset=by_offset)


def shifted_and_inside(x, scales, shifts, by_offset, low, high, by_value):
    """They, and the bits of the range."""
    return values_and_inside(x, scales, shifts, low, high, by_value, by_offset=by_offset)


def shifted_backward(x, grad, scales, shifts, by_offset, low, high, by_value, factor):
    """The gradients to `x`, to scales and to shifts."""
    return backward(x, grad, scales, shifts, low, high, by_value, factor, by_offset=by_offset)


def values(x, scales, shifts, low, high, by_value=False, *, by_offset=False, noise=(), bits=None):
    """What elements become; bits of the range go to `bits`."""
    given, compiled_for = grid(x, scales, shifts, low, high, by_value, by_offset, noise)
    x, y = in_order(x)
    launch(integers_kernel, x, x, y, bits, *given, fused=False, **compiled_for)
    return y


def values_and_inside(x, *rest, **named):
    """They, and the bits of the range."""
    bits = empty_bits(x)
    return values(x, *rest, bits=bits, **named), bits


def backward(x, grad, scales, shifts, low, high, by_value, factor, *, by_offset=False, noise=()):
    """The gradients to `x`, to scales and to shifts."""
    check_floating("x", x)
    check_alike("grad", grad, x)
    given, compiled_for = grid(x, scales, shifts, low, high, by_value, by_offset, noise)
    named = {"factor": factor, "shifted": shifts is not None, **compiled_for}
    return pulled(integers_backward_kernel, x, grad, scales, *given, **named)


def grid(x, scales, shifts, low, high, by_value, by_offset, noise):
    """What kernels are told of a grid, checked, and what they are compiled for."""
    check_scales(x, scales)
    laid, compiled_for = laying(x, scales)
    compiled_for |= {"BY_OFFSET": by_offset, "BY_VALUE": by_value, "ONE_SHIFT": True}
    if shifts is not None:
        check_shifts(shifts, scales)
        compiled_for["ONE_SHIFT"] = one_for_all(shifts)
        shifts = each_in_order(shifts)
    drawn_by, aligned = drawing(noise, x)
    given = *laid, shifts, number(low, x), number(high, x), *drawn_by
    return given, compiled_for | aligned


implement(
    integers,
    integers_and_inside,
    passed_bits,
    integers_backward,
    integers_drawn,
    integers_drawn_and_inside,
    integers_drawn_backward,
    stochastic_round,
    shifted,
    shifted_and_inside,
    shifted_backward,
)
