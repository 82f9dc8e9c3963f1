"""Philox4x32-10 on GPUs: the words and the meaning of the counter as in uniforms.py."""

import triton
import triton.language as tl

from .elementary import log1m

DRAW, CONDITIONAL = tl.constexpr(0), tl.constexpr(1)


@triton.jit
def conditional(sample):
    """The stream of a sample of an average over conditional draws."""
    return CONDITIONAL + 256 * sample


@triton.jit
def blocks(seed, position, group, tag):
    """The four words of the blocks of positions (int64), groups and tags (32 bits) of one shape."""
    low, high = position.to(tl.uint32), (position >> 32).to(tl.uint32)
    return tl.philox(seed, low, high, group, tag)


@triton.jit
def bits53(high, low):
    """53 bits, the last one set, out of two words: a uniform times 2^53."""
    return ((high.to(tl.uint64) << 20) ^ (low >> 12).to(tl.uint64)) << 1 | 1


@triton.jit
def unit53(high, low):
    """Odd multiples of 2^-53 in (0, 1)."""
    return bits53(high, low).to(tl.float64) * 2.0**-53


@triton.jit
def unit24(word):
    """A word as a float32 in (0, 1)."""
    return tl.minimum((word.to(tl.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)


@triton.jit
def joined(a, b):
    """Two tiles [..., n] as one [..., 2 n], a[0], b[0], a[1], ..."""
    return tl.reshape(tl.join(a, b), a.shape[:-1] + [2 * a.shape[-1]])  # noqa: RUF005  # Triton unpacks no lists


# ---- one uniform a row, one a class ----


@triton.jit
def row_bits(seed, position):
    """53 random bits a row, of the outcome in forward."""
    high, low, _, _ = blocks(seed, position, 0, DRAW)
    return bits53(high, low)


@triton.jit
def class_uniforms(seed, position, first, tag, CLASSES: tl.constexpr, DOUBLE: tl.constexpr):
    """The uniforms of rows at positions [R], of CLASSES classes from `first` on: [R, CLASSES]."""
    size: tl.constexpr = 2 if DOUBLE else 4
    group = first // size + tl.arange(0, CLASSES // size)
    w0, w1, w2, w3 = blocks(seed, position[:, None], group[None, :], tag)
    if DOUBLE:
        unit = joined(unit53(w0, w1), unit53(w2, w3))
    else:
        unit = joined(joined(unit24(w0), unit24(w2)), joined(unit24(w1), unit24(w3)))
    return unit


# ---- one uniform an element ----


@triton.jit
def element_uniforms(seed, group, tag, DOUBLE: tl.constexpr):
    """The uniforms of groups [G] of elements: [G, 8], in double precision [G, 2].

    In single precision two blocks hold eight: the upper halves of their words, then the lower ones.
    """
    group = group[:, None] + tl.zeros([1, 1], tl.int64)
    u0, u1, u2, u3 = blocks(seed, group, 0, tag)
    if DOUBLE:
        unit = joined(unit53(u0, u1), unit53(u2, u3))
    else:
        l0, l1, l2, l3 = blocks(seed, group, 1, tag)
        even = joined(
            joined(_lower(u0, l0), _lower(u2, l2)), joined(_lower(u1, l1), _lower(u3, l3))
        )
        odd = joined(joined(_upper(u0, l0), _upper(u2, l2)), joined(_upper(u1, l1), _upper(u3, l3)))
        unit = unit24(joined(even, odd))
    return unit


@triton.jit
def element_uniform(seed, position, tag, DOUBLE: tl.constexpr):
    """The uniforms of elements at any positions, each drawn by itself."""
    odd = (position & 1) == 1
    if DOUBLE:
        w0, w1, w2, w3 = blocks(seed, position // 2, 0, tag)
        unit = unit53(tl.where(odd, w2, w0), tl.where(odd, w3, w1))
    else:
        u0, u1, u2, u3 = blocks(seed, position // 8, 0, tag)
        l0, l1, l2, l3 = blocks(seed, position // 8, 1, tag)
        word = position // 2 & 3
        upper = tl.where(word < 2, tl.where(word == 0, u0, u1), tl.where(word == 2, u2, u3))
        lower = tl.where(word < 2, tl.where(word == 0, l0, l1), tl.where(word == 2, l2, l3))
        unit = unit24(tl.where(odd, _upper(upper, lower), _lower(upper, lower)))
    return unit


@triton.jit
def _lower(upper, lower):
    return upper << 16 | lower & 0xFFFF


@triton.jit
def _upper(upper, lower):
    return upper & 0xFFFF0000 | lower >> 16


# ---- laws ----


@triton.jit
def exponential(u):
    """Uniforms as Exp(1)."""
    return -log1m(u)


@triton.jit
def gumbel(u):
    """Uniforms as standard Gumbels."""
    return -tl.log(exponential(u))


@triton.jit
def logistic(u):
    """Uniforms as standard logistic numbers, the larger the uniform the less."""
    return log1m(u) - tl.log(u)


@triton.jit
def exponentials(seed, position, first, tag, CLASSES: tl.constexpr, DOUBLE: tl.constexpr):
    """Exp(1) of one row, of CLASSES classes from `first` on: [CLASSES]."""
    position += tl.zeros([1], tl.int64)
    u = class_uniforms(seed, position, first, tag, CLASSES, DOUBLE)
    return exponential(tl.reshape(u, [CLASSES]))
