"""Hard forwards: the GPU kernels of reference.py, same names, same order."""

import torch
import triton
import triton.language as tl

from ...core.gpu import implement
from ...core.native import elements, stored
from ...core.native.arguments import check_floating
from ...core.native.elements import empty_bits, in_memory_order, in_order, launch
from ...core.native.stored import number
from ...surrogates.triton import ends, seen, store_window

# ---- in kernels ----


@triton.jit
def sign_of(v, threshold):
    """+1 or -1."""
    return tl.where(v >= 0, 1.0, -1.0)


@triton.jit
def step(v, threshold):
    """1 above the threshold, 0 up to it."""
    return tl.where(v > threshold, 1.0, 0.0)


@triton.jit
def sign_above(v, threshold):
    """The sign beyond the threshold, 0 up to it."""
    return step(v, threshold) - step(-v, threshold)


@triton.jit
def store_hard(y, at, value, v, inside):
    """Store a hard value, NaN where v is."""
    stored.store(y, at, tl.where(v == v, value.to(v.dtype), v), inside)


@triton.jit
def hard_kernel(x, y, threshold, count, HARD: tl.constexpr, SIZE: tl.constexpr):
    """A hard function of x."""
    at, inside = elements.tile(count, SIZE)
    v = stored.load(x, at, inside, 0.0)
    store_hard(y, at, HARD(v, stored.read(threshold, x)), v, inside)


@triton.jit
def sign_and_window_kernel(
    x, y, bits, centre, bound, count, CLOSED: tl.constexpr, SIZE: tl.constexpr
):
    """The sign and the bits of a window in one pass."""
    at, inside = elements.tile(count, SIZE)
    v, centre, bound = (
        stored.load(x, at, inside, 0.0),
        stored.read(centre, x),
        stored.read(bound, x),
    )
    store_hard(y, at, sign_of(v, 0.0), v, inside)
    store_window(bits, v, inside, centre, bound, count, CLOSED, SIZE)


# ---- operators ----


def sign(x):
    """+1 or -1."""
    return mapped(x, 0.0, sign_of)


def sign_and_window(x, centre, bound, includes_bound, fixed):
    """The sign, and the bits that backward needs."""
    check_floating("x", x)
    (x, y), bits = in_order(x), empty_bits(x, 2)
    launch(sign_and_window_kernel, x, x, y, bits, *ends(x, centre, bound), CLOSED=includes_bound)
    return y, seen(bits, x, fixed)


def heaviside(x, threshold):
    """1 or 0."""
    return mapped(x, threshold, step)


def ternary(x, threshold):
    """-1, 0 or 1."""
    return mapped(x, threshold, sign_above)


def mapped(x, threshold, hard):
    """A hard function of x and of the threshold, which is first rounded as torch compares."""
    check_floating("x", x)
    x, y = in_memory_order(x)
    if isinstance(threshold, torch.Tensor):
        at = threshold.to(x.dtype)
    else:
        at = torch.tensor(threshold, dtype=x.dtype).item()
    launch(hard_kernel, x, x, y, number(at, x), HARD=hard)
    return y


implement(sign, sign_and_window, heaviside, ternary)
