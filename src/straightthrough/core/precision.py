"""Half precision: computed in float32, and brought back without an infinity that was none."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .errors import DtypeError, ShapeError, StraightThroughError, check_dense, check_floating


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that values of `dtype` are computed in: float32 for the half ones."""
    return torch.float64 if dtype == torch.float64 else torch.float32


WITHOUT_FLOAT64 = {"mps"}
"""Types of a device that computes in float32 at most."""


def widest(device: torch.device) -> torch.dtype:
    """Return the dtype of long sums and small differences: float64, where the device has it."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def check_has_float64(what: str, device: torch.device) -> None:
    """Raise where `what`, which wants float64, is asked of a device without it."""
    if widest(device) != torch.float64:
        raise StraightThroughError(
            f"{what} is computed in float64, which {device.type} has not; move the input to the CPU"
        )


def cast(number: Any, dtype: torch.dtype) -> Any:
    """Return a number that is a tensor in `dtype`, anything else as it is."""
    return number.to(dtype) if isinstance(number, Tensor) else number


def in_range(number: Any, dtype: torch.dtype) -> Any:
    """Return a number as `cast` does, or the infinity that it is beyond the range of `dtype`."""
    if type(number) is float and -65504 <= number <= 65504:  # in the range of all
        return number
    if isinstance(number, Tensor):
        return cast(number, dtype)
    largest = torch.finfo(dtype).max
    return float(number) if -largest <= number <= largest else math.copysign(math.inf, number)


def copied(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy in `dtype`; `x.to(dtype, copy=True)` takes twice as long for few entries."""
    return x.clone() if x.dtype == dtype else x.to(dtype)


def in_dtype_of(name: str, x: Tensor, other_name: str, other: Tensor) -> Tensor:
    """Return `other`, whose dtype is that of `x`, or under autocast becomes it.

    Raises:
        DtypeError: if it is another, or under autocast if one of the two is float64.
    """
    check_floating(other_name, other)
    if other.is_nested:
        check_dense(other_name, other)
    if other.dtype is x.dtype:
        return other
    autocast = torch.is_autocast_enabled(other.device.type)
    if not autocast or torch.float64 in (other.dtype, x.dtype):
        raise DtypeError(
            f"{other_name} must have the dtype {x.dtype} of {name}, got {other.dtype}; "
            f"use {other_name}.to({name}.dtype)"
        )
    return other.to(x.dtype)


def narrowed(gradient: Tensor, dtype: torch.dtype, infinite: Tensor | None = None) -> Tensor:
    """Return a gradient in `dtype`, what lies beyond its range as its largest number.

    It stays infinite where `infinite` is, by default itself: that comes from an infinite gradient
    to the value, which loss scaling has to see.
    """
    if infinite is None:
        infinite = gradient
        if gradient.dtype == dtype:
            return gradient
    largest, bound = torch.finfo(dtype).max, torch.finfo(infinite.dtype).max
    # On the CPU torch.where takes five times as long. The second difference is 0 or infinite.
    beyond = infinite.clamp(-bound, bound) - infinite
    return (gradient.clamp(-largest, largest) - beyond).to(dtype)


def in_compute_dtype(formula: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """Call a formula for float32 or float64 in what `x` is computed in; return its dtype."""
    wide = compute_dtype(x.dtype)
    floating = (
        value.to(wide) if isinstance(value, Tensor) and value.is_floating_point() else value
        for value in rest
    )
    return narrowed(as_due(formula(x.to(wide), *floating), x, wide), x.dtype)


def as_due(found: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what a rule's formula found; raise unless it has the shape of `x`, and this precision.

    Of a gradient that is larger torch would take sums. Compiled code does not check.
    """
    if is_compiling():
        return found
    if found.shape != x.shape:
        raise ShapeError(
            f"a rule's formula must return the shape {tuple(x.shape)} of what its gradient is to, "
            f"got {tuple(found.shape)}; mend what it broadcasts, as by keepdim=True"
        )
    if found.dtype != dtype and torch.finfo(found.dtype).bits < torch.finfo(dtype).bits:
        raise DtypeError(
            f"the formula of a rule must return {dtype}, which it got, and returned {found.dtype}; "
            f"make what it computes with of its arguments' dtype, as by torch.ones_like"
        )
    return found


def widened(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a formula for float32 or float64 take half precision, by `in_compute_dtype`."""
    return functools.wraps(formula)(functools.partial(in_compute_dtype, formula))
