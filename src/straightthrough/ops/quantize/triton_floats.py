"""Small floating formats times a scale a row, alone or with a scale a block: their GPU kernels.

Same names as in reference.py, same order.
"""

import math

import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import elements, philox, stored
from ...core.native.arguments import check_alike, check_floating, refuse
from ...core.native.elementary import quotient
from ...core.native.elements import empty_bits, in_order, launch
from ...grids.block import MODES
from ...grids.floating import FORMATS
from .triton_steps import (
    check_scales,
    clamped,
    drawing,
    drawn,
    each_row,
    laying,
    pulled,
    store_pulled,
    valid,
)

# ---- in kernels ----


@triton.jit
def as_bits(v):
    """Numbers as whole numbers, which order those above 0 as they are, NaN the last."""
    return v.to(tl.int64 if v.dtype == tl.float64 else tl.int32, bitcast=True)


@triton.jit
def power_of_two(size):
    """The largest power of two up to a size; of a denormal one 0, of NaN what is no number."""
    exponent: tl.constexpr = 0x7FF0000000000000 if size.dtype == tl.float64 else 0x7F800000
    return (as_bits(size) & exponent).to(size.dtype, bitcast=True)


@triton.jit
def rounded(size, at_least, MANTISSA: tl.constexpr):
    """Sizes to so many bits, half to even, spaced as at what they are `at_least`."""
    digits: tl.constexpr = 52 if size.dtype == tl.float64 else 23
    far = power_of_two(at_least) * (1.5 * 2.0 ** (digits - MANTISSA))
    return (size + far) - far


@triton.jit
def inverse(power):
    """One over powers of two, exactly, that are neither the least nor the largest."""
    twice: tl.constexpr = 2046 * 2**52 if power.dtype == tl.float64 else 254 * 2**23
    return (twice - as_bits(power)).to(power.dtype, bitcast=True)


@triton.jit
def of_format(v, u, LEAST: tl.constexpr, HIGH: tl.constexpr, MANTISSA: tl.constexpr):
    """Numbers of a format: the nearest or, where there are uniforms, one of the two beside."""
    size = clamped(tl.abs(v), 0.0, HIGH)
    at_least = tl.where(size < LEAST, LEAST, size)
    if u is None:
        minus: tl.constexpr = -(2**63) if v.dtype == tl.float64 else -(2**31)
        near = as_bits(rounded(size, at_least, MANTISSA))
        value = (near | (as_bits(v) & minus)).to(v.dtype, bitcast=True)
    else:
        power = power_of_two(at_least)
        steps = drawn(v * (inverse(power) * 2.0**MANTISSA), u)
        value = clamped(steps * (power * 2.0**-MANTISSA), -HIGH, HIGH)
    return value


@triton.jit
def of_largest(
    largest, HIGH: tl.constexpr, REACH: tl.constexpr, MANTISSA: tl.constexpr, MODE: tl.constexpr
):
    """The scales of blocks by their largest sizes; REACH is a format's largest power of two."""
    size = tl.where(largest > 0, largest, 1.0)
    if MODE == "nvfp4" or MODE == "rceil":
        size = quotient(size, HIGH)
    if MODE == "nvfp4":
        size = clamped(size, 2.0**-6, 448.0)
        scale = rounded(size, size, 3)
    else:
        power = power_of_two(size)
        scale = power if MODE == "rceil" else power * (1 / REACH)
        if MODE == "even":
            scale = tl.where(size >= power * (2 - 2.0 ** -(MANTISSA + 1)), 2 * scale, scale)
        elif MODE != "floor":
            scale = tl.where(size > power, 2 * scale, scale)
        scale = tl.where(scale < 2.0**-126, 2.0**-126, scale)
    return tl.where(largest < float("inf"), scale, float("nan"))


@triton.jit
def scales_of_blocks(
    v, HIGH: tl.constexpr, REACH: tl.constexpr, MANTISSA: tl.constexpr, MODE: tl.constexpr,
    BLOCK: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The scale of the block that each eight of a tile is of, [SIZE / 8, 1]."""
    of_eights = tl.max(as_bits(tl.abs(v)), 1)
    largest = tl.max(tl.reshape(of_eights, [SIZE // BLOCK, BLOCK // 8]), 1)
    scale = of_largest(largest.to(v.dtype, bitcast=True), HIGH, REACH, MANTISSA, MODE)
    scale = scale[:, None] + tl.zeros([SIZE // BLOCK, BLOCK // 8], v.dtype)
    return tl.reshape(scale, [SIZE // 8])[:, None]


@triton.jit
def placed(
    x, scales, octets, seed, offset, at, inside, count,
    LEAST: tl.constexpr, HIGH: tl.constexpr, REACH: tl.constexpr, MANTISSA: tl.constexpr,
    MODE: tl.constexpr, BLOCK: tl.constexpr, BY_VALUE: tl.constexpr, ONE: tl.constexpr,
    ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """A tile in steps, what it becomes, what lies in the range, and the scales."""
    scale = valid(each_row(scales, octets, count, ONE, SIZE))
    v = quotient(stored.load(x, at, inside, 0.0), scale)
    w, u = v, None
    if MODE != "":
        block = scales_of_blocks(v, HIGH, REACH, MANTISSA, MODE, BLOCK, SIZE)
        w = quotient(v, block)
    if seed is not None:
        double: tl.constexpr = v.dtype == tl.float64
        u = elements.uniforms(seed, offset, philox.DRAW, double, ALIGNED, SIZE)
    q = of_format(w, u, LEAST, HIGH, MANTISSA)
    within = tl.abs(w) < HIGH if BY_VALUE else tl.abs(w) <= HIGH
    return v, q * block if MODE != "" else q, within, scale


@triton.jit(do_not_specialize=["octets", "offset"])
def floats_kernel(
    x, y, bits, scales, octets, seed, offset: tl.int64, count,
    LEAST: tl.constexpr, HIGH: tl.constexpr, REACH: tl.constexpr, MANTISSA: tl.constexpr,
    MODE: tl.constexpr, BLOCK: tl.constexpr, BY_VALUE: tl.constexpr, ONE: tl.constexpr,
    ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """What elements become and, if there are `bits`, those of what lies in the range."""
    at, inside = elements.tile(count, SIZE)
    _, q, within, scale = placed(
        x, scales, octets, seed, offset, at, inside, count,
        LEAST, HIGH, REACH, MANTISSA, MODE, BLOCK, BY_VALUE, ONE, ALIGNED, SIZE,
    )  # fmt: skip
    stored.store(y, at, q * scale, inside)
    if bits is not None:
        elements.store_bits(bits, within & inside, count, SIZE)


@triton.jit(do_not_specialize=["octets", "offset"])
def floats_backward_kernel(
    x, grad, to, of_scale, of_shift, factor, scales, octets, seed, offset: tl.int64, count,
    LEAST: tl.constexpr, HIGH: tl.constexpr, REACH: tl.constexpr, MANTISSA: tl.constexpr,
    MODE: tl.constexpr, BLOCK: tl.constexpr, BY_VALUE: tl.constexpr, ONE: tl.constexpr,
    ALIGNED: tl.constexpr, UNIT: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """The gradient in the range, and sums of `g (q - v)` there and `g q` beyond it."""
    at, inside = elements.tile(count, SIZE)
    g = stored.load(grad, at, inside, 0.0)
    v, q, within, _ = placed(
        x, scales, octets, seed, offset, at, inside, count,
        LEAST, HIGH, REACH, MANTISSA, MODE, BLOCK, BY_VALUE, ONE, ALIGNED, SIZE,
    )  # fmt: skip
    store_pulled(to, of_scale, of_shift, factor, v, q, g, within, at, inside, count, UNIT, SIZE)


# ---- operators ----


def floats(x, scales, element, block, mode):
    """The nearest numbers of a format times scales."""
    return values(x, scales, (element, block, mode))


def floats_and_inside(x, scales, element, block, mode, by_value):
    """They, and the bits of the range."""
    return values_and_inside(x, scales, (element, block, mode), by_value)


def floats_backward(x, grad, scales, element, block, mode, by_value, factor):
    """The gradients to `x` and to scales."""
    return backward(x, grad, scales, (element, block, mode), by_value, factor)


def floats_drawn(x, scales, element, block, mode, seed, offset):
    """Numbers of a format times scales, drawn."""
    return values(x, scales, (element, block, mode), noise=(seed, offset))


def floats_drawn_and_inside(x, scales, element, block, mode, by_value, seed, offset):
    """They, and the bits of the range."""
    form = element, block, mode
    return values_and_inside(x, scales, form, by_value, noise=(seed, offset))


def floats_drawn_backward(x, grad, scales, element, block, mode, by_value, factor, seed, offset):
    """The gradients to `x` and to scales."""
    form = element, block, mode
    return backward(x, grad, scales, form, by_value, factor, noise=(seed, offset))


def values(x, scales, form, by_value=False, *, noise=(), bits=None):
    """What elements become; bits of the range go to `bits`."""
    given, compiled_for = grid(x, scales, *form, by_value, noise)
    x, y = in_order(x)
    launch(floats_kernel, x, x, y, bits, *given, fused=False, **compiled_for)
    return y


def values_and_inside(x, *rest, **named):
    """They, and the bits of the range."""
    bits = empty_bits(x)
    return values(x, *rest, bits=bits, **named), bits


def backward(x, grad, scales, form, by_value, factor, *, noise=()):
    """The gradients to `x` and to scales."""
    check_floating("x", x)
    check_alike("grad", grad, x)
    given, compiled_for = grid(x, scales, *form, by_value, noise)
    named = {"factor": factor, "shifted": False, **compiled_for}
    return pulled(floats_backward_kernel, x, grad, scales, *given, **named)


def grid(x, scales, element, block, mode, by_value, noise):
    """What kernels are told of a grid, checked, and what they are compiled for."""
    check_scales(x, scales)
    if element not in FORMATS:
        refuse("element must be a floating format, got ", element)
    if mode not in ("", "nvfp4", *MODES):
        refuse("mode must be ", ", ".join(MODES), ", nvfp4, or empty without blocks, got ", mode)
    length = x.numel() // scales.numel()
    one_size = 8 <= block <= elements.ELEMENTS and not block & (block - 1) and length % block == 0
    if not (one_size if mode else block == 0):
        refuse(
            *("block must be 0 without a mode, else a power of two from 8 to ", elements.ELEMENTS),
            *(" that divides rows of ", length, ", got ", block),
        )
    _, mantissa, least, high = FORMATS[element]
    form = {"LEAST": 2.0**least, "HIGH": high, "REACH": 2.0 ** (math.frexp(high)[1] - 1)}
    form |= {"MANTISSA": mantissa, "MODE": mode, "BLOCK": block, "BY_VALUE": by_value}
    laid, one = laying(x, scales)
    drawn_by, aligned = drawing(noise, x)
    return (*laid, *drawn_by), {**form, **one, **aligned}


implement(
    floats,
    floats_and_inside,
    floats_backward,
    floats_drawn,
    floats_drawn_and_inside,
    floats_drawn_backward,
)
