"""What tensors store, read and written on GPUs: half precision is widened and rounded."""

from __future__ import annotations

import struct
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def number(value: float | Tensor, x: Tensor) -> float | Tensor:
    """Return a number as a kernel takes it: a float, or a tensor on the device of `x`.

    Triton's floats are single, so one beside double precision becomes a tensor. One on the device
    stays there, and a captured graph reads what it holds then.
    """
    if isinstance(value, Tensor) and value.device != x.device:
        value = float(value)
    if isinstance(value, Tensor) or x.dtype != torch.float64:
        return value
    return torch.full((), value, dtype=torch.float64, device=x.device)


def double(value: float | Tensor, x: Tensor) -> int | Tensor:
    """Return a number as a kernel takes it that computes in double precision: by its bits."""
    if isinstance(value, Tensor):
        return value.to(device=x.device, dtype=torch.float64)
    return int.from_bytes(struct.pack("<d", value), "little", signed=True)


def known_power(tau: float | Tensor) -> int:
    """Return 1 / tau where it is known to be 1 or 2, else 0."""
    return {1.0: 1, 0.5: 2}.get(tau, 0) if not isinstance(tau, Tensor) else 0


def options(warps: int, fused: bool = True) -> dict[str, Any]:
    """Return what a kernel is compiled with; the default of the fusion is about to change."""
    return {"num_warps": warps, "enable_fp_fusion": fused}


# ---- in kernels ----


@triton.jit
def read(value, x):
    """A number that is a float or a tensor, in what values at `x` are computed in."""
    value = tl.to_tensor(value)
    if value.dtype.is_ptr():
        value = tl.load(value)
    return value.to(tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)


@triton.jit
def read_double(value):
    """A number out of what `double` made of it."""
    value = tl.to_tensor(value)
    if value.dtype.is_ptr():
        value = tl.load(value)
    else:
        value = value.to(tl.int64).to(tl.float64, bitcast=True)
    return value


@triton.jit
def widened(value):
    """What numbers are computed in: half precision in float32."""
    return value if value.dtype == tl.float64 else value.to(tl.float32)


@triton.jit
def load(x, at, inside, fill):
    """Numbers as they are computed with; `fill` where there are none."""
    return widened(tl.load(x + at, inside, fill))


@triton.jit
def store(to, at, value, inside):
    """Store numbers in the dtype that `to` points at."""
    tl.store(to + at, value.to(to.dtype.element_ty), inside)


@triton.jit
def saturated(value, to):
    """A gradient, what lies beyond the range of half precision at `to` as its largest number."""
    if to.dtype.element_ty == tl.float16:
        value = tl.where(tl.abs(value) < float("inf"), tl.clamp(value, -65504.0, 65504.0), value)
    elif to.dtype.element_ty == tl.bfloat16:
        largest = 3.3895313892515355e38
        value = tl.where(tl.abs(value) < float("inf"), tl.clamp(value, -largest, largest), value)
    return value


@triton.jit
def store_gradient(to, at, value, inside):
    """Store a gradient; it stays infinite where it is."""
    store(to, at, saturated(value, to), inside)
