"""Uniforms: the GPU kernels of uniforms.py, same names, same order."""

import torch
import triton
import triton.language as tl

from .gpu import implement
from .native import elements, philox
from .native.arguments import check_noise, check_samples
from .native.stored import options

TILE = 1024
"""Uniforms of a program."""

BLOCK = 256
"""Classes of a row among them, at most."""


@triton.jit
def placed(local, offset, run, stride, start, RUNS: tl.constexpr):
    """The places in the whole of local positions, which lie in runs or in one."""
    if RUNS:
        local += start
        local = local // run * stride + local % run
    return offset + local


@triton.jit(do_not_specialize=["offset", "run", "stride", "start", "count"])
def rows_kernel(
    to, seed, offset: tl.int64, run: tl.int64, stride: tl.int64, start: tl.int64, count,
    RUNS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """52 bits a row."""
    row = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    position = placed(row, offset, run, stride, start, RUNS)
    bits = philox.row_bits(tl.load(seed), position).to(tl.int64) >> 1
    tl.store(to + row, bits, row < count)


@triton.jit(do_not_specialize=["offset", "run", "stride", "start", "count", "tag"])
def classes_kernel(
    to, seed, offset: tl.int64, run: tl.int64, stride: tl.int64, start: tl.int64, count, classes,
    tag: tl.int64, RUNS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A uniform a row and class."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * WIDTH
    j = first + tl.arange(0, WIDTH)
    position = placed(row, offset, run, stride, start, RUNS)
    double: tl.constexpr = to.dtype.element_ty == tl.float64
    key = tl.load(seed)
    unit = philox.class_uniforms(key, position, first, tag.to(tl.uint32), WIDTH, double)
    inside = (row < count)[:, None] & (j < classes)[None, :]
    tl.store(to + row[:, None] * classes + j[None, :], unit, inside)


@triton.jit(do_not_specialize=["offset", "run", "stride", "start", "tag"])
def elements_kernel(
    to, seed, offset: tl.int64, run: tl.int64, stride: tl.int64, start: tl.int64, tag: tl.int64,
    count, RUNS: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """A uniform an element."""
    at, inside = elements.tile(count, SIZE)
    double: tl.constexpr = to.dtype.element_ty == tl.float64
    tag = tag.to(tl.uint32)
    if RUNS:
        position = placed(at, offset, run, stride, start, RUNS)
        unit = philox.element_uniform(tl.load(seed), position, tag, double)
    else:
        unit = elements.uniforms(seed, offset, tag, double, ALIGNED, SIZE)
    tl.store(to + at, unit, inside)


def row_uniforms(seed, place, count):
    """One a row, times 2^52 and rounded down."""
    to = fresh(seed, place, torch.int64, count)
    if count:
        tiles = (triton.cdiv(count, TILE),)
        runs = {"RUNS": place[1] > 0, "SIZE": TILE}
        rows_kernel[tiles](to, seed, *place, count, **runs, **options(4))
    return to


def class_uniforms(seed, place, rows, classes, dtype, tag):
    """One a row and class."""
    to = fresh(seed, place, dtype, rows, classes)
    check_samples(1 + tag // 256)
    if to.numel():
        width = min(BLOCK, max(4, triton.next_power_of_2(classes)))
        tile = {"RUNS": place[1] > 0, "ROWS": TILE // width, "WIDTH": width}
        tiles = triton.cdiv(rows, tile["ROWS"]), triton.cdiv(classes, width)
        classes_kernel[tiles](to, seed, *place, rows, classes, tag, **tile, **options(4))
    return to


def element_uniforms(seed, place, count, dtype, tag):
    """One an element."""
    to = fresh(seed, place, dtype, count)
    check_samples(1 + tag // 256)
    compiled_for = {"RUNS": place[1] > 0, "ALIGNED": place[0] % 8 == 0}
    elements.launch(elements_kernel, to, to, seed, *place, tag, **compiled_for)
    return to


def fresh(seed, place, dtype, *shape):
    """A tensor for uniforms, on the device of the seed, which is checked."""
    offset, _, _, _ = place
    check_noise(seed, offset, seed)
    return torch.empty(shape, dtype=dtype, device=seed.device)


implement(row_uniforms, class_uniforms, element_uniforms)
