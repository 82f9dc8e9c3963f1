"""Uniforms of a seed at positions, by Philox4x32-10.

A counter of four 32-bit words names a block of four random words; the seed's two halves are the
key. What the counter means is fixed here, for every implementation of every operator:

    words 0, 1   the position (of the row, or of a group of elements), low and high half
    word 2       the group of classes within the row; for elements, which half of their words
    word 3       the tag: the stream (what the noise is for), plus 256 times the sample's number

Philox is some thirty operations of torch, of which each is a launch on a GPU. There `triton.py` has
a kernel of one launch, for the operators that have none of their own. Graphs that are recorded hold
torch's operations, which compilers fuse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gpu import on_gpus
from .internals import tracing, transforms_active
from .philox import MASK, philox, philox_in_place

HALF = 0xFFFF

LAUNCHES = {"cuda", "meta"}
"""Types of a device on which an operation is a launch, whose number then counts."""

Place = tuple[int, int, int, int]
"""Offset, run and stride of a `Seed`, and the local position that is asked for first."""


@on_gpus("(Tensor seed, int[] place, int count) -> Tensor")
def row_uniforms(seed: Tensor, place: Place, count: int) -> Tensor:
    """Return 52 bits a row in int64, of which twice and 1 is a uniform times 2^53."""
    words = _blocks(seed, place, count, _positions(seed, place, count), 0, 0)
    return _bits(words[0], words[1])


@on_gpus("(Tensor seed, int[] place, int rows, int classes, ScalarType dtype, int tag) -> Tensor")
def class_uniforms(
    seed: Tensor, place: Place, rows: int, classes: int, dtype: torch.dtype, tag: int
) -> Tensor:
    """Return one uniform a row and class: four of a block in float32, two in float64."""
    position = _positions(seed, place, rows).unsqueeze(-1)
    width = 2 if dtype == torch.float64 else 4
    # Not -(-classes // width): ONNX rounds the quotient of a size left open towards 0.
    groups = (classes + width - 1) // width
    group = torch.arange(groups, device=seed.device)
    words = torch.stack(_blocks(seed, place, rows, position, group, tag), -1)
    return _unit(words, dtype).flatten(-2)[..., :classes]


@on_gpus("(Tensor seed, int[] place, int count, ScalarType dtype, int tag) -> Tensor")
def element_uniforms(
    seed: Tensor, place: Place, count: int, dtype: torch.dtype, tag: int
) -> Tensor:
    """Return one uniform an element.

    In float64 a block holds two. In float32 two blocks hold eight: one the upper halves of their
    words, the other the lower halves. The first alone decides most binary draws.
    """
    offset, run, _, _ = place
    width = 2 if dtype == torch.float64 else 8
    if run:
        position = _positions(seed, place, count)
        every = _groups(seed, place, count, position // width, dtype, tag)
        return every.gather(-1, (position % width).unsqueeze(-1)).squeeze(-1)
    first, last = offset // width, (offset + count + width - 1) // width
    group = torch.arange(first, last, device=seed.device)
    every = _groups(seed, place, count, group, dtype, tag).flatten()
    skip = offset - first * width
    if isinstance(count, int):
        return every[skip:][:count]
    # A size left open, of which no slice is known to be short enough.
    return every.index_select(0, torch.arange(skip, skip + count, device=every.device))


def _positions(seed: Tensor, place: Place, count: int) -> Tensor:
    """Return the places in the whole of the first `count` rows, or elements."""
    offset, run, stride, start = place
    if not run:
        return torch.arange(offset, offset + count, device=seed.device)
    local = torch.arange(start, start + count, device=seed.device)
    return offset + local // run * stride + local % run


def _last(place: Place, count: int) -> int:
    """Return the last of these places."""
    offset, run, stride, start = place
    if not run:
        return offset + count - 1
    rows, rest = divmod(start + count - 1, run)
    return offset + rows * stride + rest


def _groups(
    seed: Tensor, place: Place, count: int, group: Tensor, dtype: torch.dtype, tag: int
) -> Tensor:
    """Return the uniforms of groups of elements, `(groups, 2 or 8)`."""
    group = group.unsqueeze(-1)
    if dtype == torch.float64:
        return _unit(torch.stack(_blocks(seed, place, count, group, 0, tag), -1).flatten(-2), dtype)
    halves = torch.arange(2, device=group.device)
    words = torch.stack(_blocks(seed, place, count, group, halves, tag), -1)
    joined = _joined_in_place if _by_launches(seed) else _joined_halves
    return _unit(joined(words[..., 0, :], words[..., 1, :]).flatten(-2), dtype)


def _blocks(
    seed: Tensor, place: Place, count: int, position: Tensor, group: Tensor | int, tag: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the words of blocks, whose positions are at most those of `count` rows or elements."""
    if _by_launches(seed):
        short = _last(place, count) <= MASK
        halves = (position, 0) if short else (position & MASK, position >> 32)
        return philox_in_place((*halves, group, tag), seed)
    if isinstance(group, int):
        group = torch.full((), group, dtype=torch.int64, device=seed.device)
    last = torch.full((), tag, dtype=torch.int64, device=seed.device)
    return philox((position & MASK, position >> 32, group, last), seed)


def _by_launches(seed: Tensor) -> bool:
    """Whether each operation is a launch: not where they are recorded for a compiler to fuse."""
    recorded = type(seed) is not Tensor or tracing() or transforms_active()
    return seed.device.type in LAUNCHES and not recorded


def _bits(high: Tensor, low: Tensor) -> Tensor:
    """Return the upper 52 of 64 bits."""
    return torch.add(low >> 12, high, alpha=2**20)


def _unit(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn words into uniforms in (0, 1): a word each in float32, two side by side in float64."""
    # Every number stands for itself and what is cut off after it: the middle is the uniform.
    if dtype == torch.float64:
        bits = _bits(words[..., ::2], words[..., 1::2]).to(dtype)
        return torch.rsub(bits, 2.0**-53, alpha=-(2.0**-52))
    unit = torch.rsub(words.to(dtype), 2.0**-33, alpha=-(2.0**-32))
    return unit.clamp(max=1 - 2.0**-24)


def _joined_halves(upper: Tensor, lower: Tensor) -> Tensor:
    """Return two words of each two, the first of both lower halves, then of both upper ones."""
    first, second = (upper & HALF) << 16 | lower & HALF, upper & ~HALF | lower >> 16
    return torch.stack([first, second], -1)


def _joined_in_place(upper: Tensor, lower: Tensor) -> Tensor:
    """Return the same by moving halves where they lie, the lowest of a number first."""
    upper, lower = (words.unsqueeze(-1).view(torch.int16) for words in (upper, lower))
    none = upper[..., 2:]
    halves = torch.stack([lower[..., :2], upper[..., :2], none, none], -1)
    return halves.view(torch.int64).squeeze(-1)
