"""Rules of two values, and their kernels: what backward has to know is one bit an element."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.bits import pack, unpack
from ..core.kernels import bits, has_kernel, kernel
from ..core.rules import Derivative, cast, centred, compute_dtype, narrowed


class Window(Derivative):
    """A rule of two values: one where `|x|` is within a bound, one beyond it and for NaN.

    Backward only has to know on which side each element is: one bit an element is saved.
    """

    closed: ClassVar[bool] = True  # whether the bound itself is inside

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.derivative is not Window.derivative:  # a variant, which one bit does not tell
            for name in ("within", "backward", "pull"):
                setattr(cls, name, getattr(Derivative, name))

    @abstractmethod
    def window(self) -> tuple[float, float, float]:
        """Return the bound of `|x|`, the derivative inside, and that outside."""

    @property
    def within(self) -> tuple[float, bool]:
        return self.window()[0], self.closed

    def derivative(self, x: Tensor) -> Tensor:
        bound, inner, outer = self.window()
        return _either(_inside(x, bound, self.closed), x.dtype, inner, outer)

    def backward(self, x: Tensor, grad: Tensor) -> Tensor:
        if has_kernel(x, grad):
            return self.pull(grad, (window_bits(x, 0.0, *self.within),), 0.0)
        return super().backward(x, grad)

    def pull(self, grad: Tensor, kept: Sequence[Tensor], centre: float) -> Tensor:
        if kept[0].dtype != torch.uint8:
            return super().pull(grad, kept, centre)
        _, inner, outer = self.window()
        return window_vjp(grad, kept[0], inner, outer)


@kernel("(Tensor x, float centre, float bound, bool closed) -> Tensor", bits)
def window_bits(x: Tensor, centre: float, bound: float, closed: bool) -> Tensor:
    """Return the bits that say where `|x - centre|` is within `bound`."""
    wide = x.to(compute_dtype(x.dtype))
    return pack(_inside(centred(wide, centre), bound, closed))


@kernel("(Tensor grad, Tensor bits, float inner, float outer) -> Tensor")
def window_vjp(grad: Tensor, bits: Tensor, inner: float, outer: float) -> Tensor:
    """Return `grad` times `inner` where the bit is set, times `outer` elsewhere."""
    wide = grad.to(compute_dtype(grad.dtype))
    slope = _either(unpack(bits, grad.shape), wide.dtype, inner, outer)
    return narrowed(wide * slope, grad.dtype)


def _inside(x: Tensor, bound: Any, closed: bool) -> Tensor:
    bound = cast(bound, x.dtype)
    return x.abs() <= bound if closed else x.abs() < bound


def _either(truth: Tensor, dtype: torch.dtype, yes: Any, no: Any) -> Tensor:
    # On the CPU torch.where takes five times as long.
    value = cast(yes, dtype) * truth.to(dtype)
    if not isinstance(no, Tensor) and no == 0:
        return value
    return value + cast(no, dtype) * truth.logical_not().to(dtype)
