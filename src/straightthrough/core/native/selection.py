"""The largest of a row on GPUs, by the bits of their keys: as selection.h has them."""

import triton
import triton.language as tl


@triton.jit
def key_of(v):
    """Whole numbers above 0 in the order of the numbers whose bits they are; both zeros are one."""
    v = tl.where(v == 0, 0.0, v)
    if v.dtype == tl.float64:
        bits = v.to(tl.int64, bitcast=True)
        key = (bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)).to(tl.uint64) ^ (1 << 63)
    else:
        bits = v.to(tl.int32, bitcast=True)
        key = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32) ^ (1 << 31)
    return key


@triton.jit
def number_of(key, like: tl.constexpr):
    """The numbers of keys."""
    if like == tl.float64:
        bits = (key ^ (1 << 63)).to(tl.int64)
        bits ^= (bits >> 63) & 0x7FFFFFFFFFFFFFFF
    else:
        bits = (key ^ (1 << 31)).to(tl.int32)
        bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.to(like, bitcast=True)


@triton.jit
def kth_largest(key, k, ROWS: tl.constexpr):
    """The k-th largest key of every row of a tile, bit by bit from the highest."""
    bits: tl.constexpr = key.dtype.primitive_bitwidth
    least = tl.zeros([ROWS], key.dtype)
    bit = tl.full([ROWS], 1, key.dtype) << (bits - 1)
    for _ in range(bits):
        higher = least | bit
        enough = tl.sum((key >= higher[:, None]).to(tl.int32), 1) >= k
        least, bit = tl.where(enough, higher, least), bit >> 1
    return least
