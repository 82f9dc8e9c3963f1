"""The walk over elements on GPUs: eight a row of a tile, as noise and bits have them."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import philox
from .stored import options

ELEMENTS = 1024
"""Of a tile."""


def bytes_of_bits(x: Tensor) -> int:
    """Return how many bytes hold a bit an element."""
    return (x.numel() + 7) // 8


def empty_bits(x: Tensor, planes: int = 1) -> Tensor:
    """Return a new tensor of so many bits an element."""
    return x.new_empty(planes * bytes_of_bits(x), dtype=torch.uint8)


def in_order(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a tensor in row-major order, as positions count, and a new one like it."""
    return x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)


def in_memory_order(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a tensor that fills its memory, in whatever order, and a new one that lies alike."""
    y = torch.empty_like(x)
    return (x, y) if y.stride() == x.stride() else in_order(x)


def launch(
    kernel: Any,
    x: Tensor,
    *arguments: Any,
    parts: int = 1,
    fused: bool = True,
    **compiled_for: Any,
) -> None:
    """Launch a kernel over the elements of `x`; it is told their count, and the size of a tile.

    Tiles are one of so many parts where registers are few, or the slowest element is waited for.
    A product and what is added to it are rounded once where that is `fused`.
    """
    count, size = x.numel(), ELEMENTS // parts
    if count:
        grid = (triton.cdiv(count, size),)
        with_options = options(max(1, 4 // parts), fused)
        kernel[grid](*arguments, count, SIZE=size, **compiled_for, **with_options)


# ---- in kernels ----


@triton.jit
def tile(count, SIZE: tl.constexpr):
    """The numbers of the elements of this program's tile, [SIZE / 8, 8], and which are there."""
    first = tl.program_id(0).to(tl.int64) * SIZE
    at = first + tl.arange(0, SIZE // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
    return at, at < count


@triton.jit
def uniforms(seed, offset, tag, DOUBLE: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr):
    """The uniforms of a tile, of elements from the position `offset` on.

    Where it is ALIGNED, a multiple of 8, elements share what is drawn for eight, or for two in
    double precision; elsewhere each has its own.
    """
    first = offset + tl.program_id(0).to(tl.int64) * SIZE
    key = tl.load(seed)
    if not ALIGNED:
        position = first + tl.arange(0, SIZE // 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
        unit = philox.element_uniform(key, position, tag, DOUBLE)
    elif DOUBLE:
        pairs = philox.element_uniforms(key, first // 2 + tl.arange(0, SIZE // 2), tag, DOUBLE)
        unit = tl.reshape(pairs, [SIZE // 8, 8])
    else:
        unit = philox.element_uniforms(key, first // 8 + tl.arange(0, SIZE // 8), tag, DOUBLE)
    return unit


@triton.jit
def store_bits(to, truth, count, SIZE: tl.constexpr):
    """Store the truths of a tile as bits, eight a byte."""
    byte = tl.program_id(0).to(tl.int64) * (SIZE // 8) + tl.arange(0, SIZE // 8)
    eight = tl.sum(truth.to(tl.int32) << tl.arange(0, 8)[None, :], 1)
    tl.store(to + byte, eight.to(tl.uint8), byte < (count + 7) // 8)


@triton.jit
def load_bits(bits, count, SIZE: tl.constexpr):
    """The truths of a tile."""
    byte = tl.program_id(0).to(tl.int64) * (SIZE // 8) + tl.arange(0, SIZE // 8)
    eight = tl.load(bits + byte, byte < (count + 7) // 8, 0).to(tl.int32)
    return ((eight[:, None] >> tl.arange(0, 8)[None, :]) & 1) != 0


@triton.jit
def truths(given, at, inside, count, PACKED: tl.constexpr, SIZE: tl.constexpr):
    """The truths of a tile, given as bits or as bools."""
    return load_bits(given, count, SIZE) if PACKED else tl.load(given + at, inside, 0) != 0
