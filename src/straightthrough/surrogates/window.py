"""Rules of two values, and their kernels: what backward has to know is one bit an element.

Where there is a NaN, it is two: behind the bits that say what is inside come those that say where
the NaN is. To see whether there is one costs a read of the result, which only the CPU has at hand;
elsewhere, and in a graph, whose shapes are fixed, the second bits are always there.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.bits import pack, unpack
from ..core.kernels import bits, in_a_graph, kernel
from ..core.precision import cast, compute_dtype, in_compute_dtype
from ..core.rules import Derivative, Saved, saves


class Window(Derivative):
    """A rule of two values: one where `|x|` is within a bound, one beyond it; NaN stays NaN.

    Backward only has to know on which side each element is: one bit an element is saved.
    """

    includes_bound: ClassVar[bool] = True  # whether the bound itself is inside

    @abstractmethod
    def window(self) -> tuple[float, float, float]:
        """Return the bound of `|x|`, the derivative inside, and that outside."""

    @saves(Saved.WINDOW)
    def derivative(self, x: Tensor) -> Tensor:
        bound, inner, outer = self.window()
        slope = _either(_inside(x, bound, self.includes_bound), x.dtype, inner, outer)
        return slope.masked_fill(x.isnan(), math.nan)


def _by_bits(rule: Window, x: Tensor, grad: Tensor) -> Tensor:
    bound, inner, outer = rule.window()
    bits = window_bits(x, 0.0, bound, rule.includes_bound, in_a_graph(x))
    return window_gradient(grad, bits, inner, outer)


_by_bits.operator = "window_gradient"  # type: ignore[attr-defined]  # functions take any
Window.derivative.kernel = _by_bits  # type: ignore[attr-defined]  # as `saves` does


def window_shape(x: Tensor, *rest: Any) -> Tensor:
    """The result of `window_bits`, whose last argument is `fixed`."""
    return torch.cat([bits(x)] * (1 + rest[-1]))


@kernel(
    "(Tensor x, float centre, float bound, bool includes_bound, bool fixed) -> Tensor", window_shape
)
def window_bits(
    x: Tensor, centre: float, bound: float, includes_bound: bool, fixed: bool
) -> Tensor:
    """Return the bits that say where `|x - centre|` is within `bound`, then those of NaN if due.

    They are due where there is a NaN, and where the size is to be `fixed`, whatever x holds.
    """
    wide = compute_dtype(x.dtype)
    inside, nan = _inside(centred(x.to(wide), centre), bound, includes_bound), x.isnan()
    if not fixed and x.is_cpu and not nan.any():
        return pack(inside)
    return torch.cat([pack(inside), pack(nan)])


def centred(x: Tensor, centre: Any) -> Tensor:
    """Return `x - centre`, in what `x` is computed in where it is moved."""
    if not isinstance(centre, Tensor) and centre == 0:
        return x
    wide = compute_dtype(x.dtype)
    return x.to(wide) - cast(centre, wide)


@kernel("(Tensor grad, Tensor bits, float inner, float outer) -> Tensor")
def window_gradient(grad: Tensor, bits: Tensor, inner: float, outer: float) -> Tensor:
    """Return `grad` times `inner` where the bit is set, times `outer` elsewhere; NaN likewise."""
    with_nan = bits.dtype == torch.uint8 and bits.numel() > (grad.numel() + 7) // 8
    inside, *nan = (unpack(each, grad.shape) for each in bits.chunk(1 + with_nan))

    def formula(grad: Tensor) -> Tensor:
        gradient = grad * _either(inside, grad.dtype, inner, outer)
        return gradient.masked_fill(nan[0], math.nan) if nan else gradient

    return in_compute_dtype(formula, grad)


def _inside(x: Tensor, bound: Any, includes_bound: bool) -> Tensor:
    bound = cast(bound, x.dtype)
    return x.abs() <= bound if includes_bound else x.abs() < bound


def _either(inside: Tensor, dtype: torch.dtype, yes: Any, no: Any) -> Tensor:
    # On the CPU torch.where takes five times as long.
    value = cast(yes, dtype) * inside.to(dtype)
    if not isinstance(no, Tensor) and no == 0:
        return value
    return value + cast(no, dtype) * inside.logical_not().to(dtype)
