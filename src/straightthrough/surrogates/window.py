"""Rules of two values, and their kernels: what backward has to know is one bit an element."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.bits import pack, unpack
from ..core.kernels import bits, kernel
from ..core.precision import cast, compute_dtype, in_compute_dtype
from ..core.rules import Derivative, Saved, saves


class Window(Derivative):
    """A rule of two values: one where `|x|` is within a bound, one beyond it and for NaN.

    Backward only has to know on which side each element is: one bit an element is saved.
    """

    includes_bound: ClassVar[bool] = True  # whether the bound itself is inside

    @abstractmethod
    def window(self) -> tuple[float, float, float]:
        """Return the bound of `|x|`, the derivative inside, and that outside."""

    @saves(Saved.WINDOW)
    def derivative(self, x: Tensor) -> Tensor:
        bound, inner, outer = self.window()
        return _either(_inside(x, bound, self.includes_bound), x.dtype, inner, outer)


def _by_bits(rule: Window, x: Tensor, grad: Tensor) -> Tensor:
    bound, inner, outer = rule.window()
    return window_gradient(grad, window_bits(x, 0.0, bound, rule.includes_bound), inner, outer)


Window.derivative.kernel = _by_bits  # type: ignore[attr-defined]  # as `saves` does


@kernel("(Tensor x, float centre, float bound, bool includes_bound) -> Tensor", bits)
def window_bits(x: Tensor, centre: float, bound: float, includes_bound: bool) -> Tensor:
    """Return the bits that say where `|x - centre|` is within `bound`."""
    wide = compute_dtype(x.dtype)
    return pack(_inside(centred(x.to(wide), centre), bound, includes_bound))


def centred(x: Tensor, centre: Any) -> Tensor:
    """Return `x - centre`, in what `x` is computed in where it is moved."""
    if not isinstance(centre, Tensor) and centre == 0:
        return x
    wide = compute_dtype(x.dtype)
    return x.to(wide) - cast(centre, wide)


@kernel("(Tensor grad, Tensor bits, float inner, float outer) -> Tensor")
def window_gradient(grad: Tensor, bits: Tensor, inner: float, outer: float) -> Tensor:
    """Return `grad` times `inner` where the bit is set, times `outer` elsewhere."""

    def formula(grad: Tensor) -> Tensor:
        return grad * _either(unpack(bits, grad.shape), grad.dtype, inner, outer)

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
