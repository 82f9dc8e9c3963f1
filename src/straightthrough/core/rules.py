"""Backward rules: frozen dataclasses, hashable, printable, picklable.

Of their three forms `Derivative` and `Relaxation` stand here; the third, which needs noise, is
`Estimator` in `estimators/base.py`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from .bits import pack, unpack
from .errors import ArgumentError
from .kernels import define, kernel, serves


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that values of `dtype` are computed in: float32 for the half ones."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def narrowed(gradient: Tensor, dtype: torch.dtype, given: Tensor | None = None) -> Tensor:
    """Return a gradient in `dtype`, what lies beyond its range as its largest number.

    It stays infinite where `given` is, by default itself: that comes from an infinite gradient to
    the value, which loss scaling has to see.
    """
    if given is None:
        given = gradient
        if gradient.dtype == dtype:
            return gradient
    most, all_but_infinite = torch.finfo(dtype).max, torch.finfo(given.dtype).max
    # On the CPU torch.where takes five times as long. The second difference is 0 or infinite.
    beyond = given.clamp(-all_but_infinite, all_but_infinite) - given
    return (gradient.clamp(-most, most) - beyond).to(dtype)


class Rule(ABC):  # noqa: B024  # abstract by its forms
    """What a gradient pretends the hard forward was."""


class Derivative(Rule):
    """A pointwise rule: backward multiplies the gradient by `derivative(x)`.

    `primitive(x)` is the smooth function that the derivative belongs to, where there is one.
    """

    kernel: ClassVar[Callable[..., Tensor] | None] = None  # of `vjp`, set by `fused`

    def __init_subclass__(cls) -> None:
        cls.kernel = None  # a parent's kernel has the parent's derivative

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """Return the surrogate's derivative at `x`, elementwise."""

    def primitive(self, x: Tensor) -> Tensor:
        """Return the surrogate itself at `x`, elementwise."""
        raise ArgumentError(
            f"{self} has no primitive: it is defined by its derivative alone; use .derivative(x)"
        )

    def vjp(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return `grad * derivative(x)`, computed in float32 for half precision."""
        if self.kernel is not None and serves(x, grad):
            return self.kernel(x, grad, *vars(self).values())
        wide = compute_dtype(x.dtype)
        return narrowed(grad.to(wide) * self.derivative(x.to(wide)), x.dtype)

    def jvp(self, x: Tensor, tangent: Tensor) -> Tensor:
        """Return `derivative(x) * tangent`: a diagonal Jacobian is its own transpose."""
        return self.vjp(x, tangent)

    @property
    def within(self) -> tuple[float, bool] | None:
        """Where a rule of two values has one of them: the bound of `|x|`, and if it is inside."""
        return None

    def keep(self, x: Tensor, centre: float) -> tuple[Tensor, ...]:
        """Return what `pull` has to know of `x`: all of it, unless the rule needs less."""
        return (x,)

    def pull(self, grad: Tensor, kept: Sequence[Tensor], centre: float) -> Tensor:
        """Return `grad * derivative(x - centre)`, in the dtype of `grad`."""
        return narrowed(self.vjp(_centred(kept[0], centre), grad), grad.dtype)


def _centred(x: Tensor, centre: float) -> Tensor:
    return x if centre == 0 else x.to(compute_dtype(x.dtype)) - centre


_Derivative = TypeVar("_Derivative", bound=type[Derivative])


def fused(cls: _Derivative) -> _Derivative:
    """Serve the rule's `vjp` by the kernel of the class's name; its arguments are the fields."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # every rule is a dataclass
    arguments = "".join(f", float {field.name}" for field in fields)

    def reference(x: Tensor, grad: Tensor, *values: float) -> Tensor:
        return cls(*values).vjp(x, grad)

    schema = f"(Tensor x, Tensor grad{arguments}) -> Tensor"
    cls.kernel = staticmethod(define(cls.__name__, schema, reference))
    return cls


class Window(Derivative):
    """A rule of two values: one where `|x|` is within a bound, one beyond it and for NaN.

    Backward only has to know on which side each element is: one bit an element is saved.
    """

    closed: ClassVar[bool] = True  # whether the bound itself is inside

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.derivative is not Window.derivative:  # a variant, which one bit does not tell
            for name in ("within", "vjp", "keep", "pull"):
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

    def vjp(self, x: Tensor, grad: Tensor) -> Tensor:
        if serves(x, grad):
            return self.pull(grad, self.keep(x, 0.0), 0.0)
        return super().vjp(x, grad)

    def keep(self, x: Tensor, centre: float) -> tuple[Tensor, ...]:
        # Inductor keeps a bool an element instead of x by itself, and is four times as fast by it.
        if torch.compiler.is_compiling():
            return (x,)
        return (window_bits(x, centre, *self.within),)

    def pull(self, grad: Tensor, kept: Sequence[Tensor], centre: float) -> Tensor:
        if kept[0].dtype != torch.uint8:
            return super().pull(grad, kept, centre)
        _, inner, outer = self.window()
        return window_vjp(grad, kept[0], inner, outer)


@kernel("(Tensor x, float centre, float bound, bool closed) -> Tensor")
def window_bits(x: Tensor, centre: float, bound: float, closed: bool) -> Tensor:
    """Return the bits that say where `|x - centre|` is within `bound`."""
    wide = x.to(compute_dtype(x.dtype))
    return pack(_inside(_centred(wide, centre), bound, closed))


@kernel("(Tensor grad, Tensor bits, float inner, float outer) -> Tensor")
def window_vjp(grad: Tensor, bits: Tensor, inner: float, outer: float) -> Tensor:
    """Return `grad` times `inner` where the bit is set, times `outer` elsewhere."""
    wide = grad.to(compute_dtype(grad.dtype))
    slope = _either(unpack(bits, grad.shape), wide.dtype, inner, outer)
    return narrowed(wide * slope, grad.dtype)


def _inside(x: Tensor, bound: float, closed: bool) -> Tensor:
    return x.abs() <= bound if closed else x.abs() < bound


def _either(truth: Tensor, dtype: torch.dtype, yes: float, no: float) -> Tensor:
    # On the CPU torch.where takes five times as long.
    value = yes * truth.to(dtype)
    return value if no == 0 else value + no * truth.logical_not().to(dtype)


class Relaxation(Rule):
    """A rule given by a smooth function of the same shape, differentiated in backward only."""

    @abstractmethod
    def soft(self, x: Tensor) -> Tensor:
        """Return the relaxed value of `x`."""

    def vjp(self, x: Tensor, grad: Tensor, scale: float = 1.0) -> Tensor:
        """Return `scale J^T grad`, J the Jacobian of `soft` at `x`."""
        wide = compute_dtype(x.dtype)
        pull = torch.func.vjp(self.soft, x.to(wide))[1]
        return narrowed(scale * pull(grad.to(wide))[0], x.dtype)

    def jvp(self, x: Tensor, tangent: Tensor, scale: float = 1.0) -> Tensor:
        """Return `scale J tangent`, J the Jacobian of `soft` at `x`."""
        wide = compute_dtype(x.dtype)
        moved = push_forward(self.soft, (x.to(wide),), (tangent.to(wide),))
        return narrowed(scale * moved, x.dtype)


def push_forward(
    function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: tuple[Any, ...]
) -> Tensor:
    """Return `J tangents`, J the Jacobian of `function`, by reverse mode twice.

    `torch.func.jvp` cannot be used inside the dual levels of `torch.autograd.forward_ad`.
    """
    value, pull = torch.func.vjp(function, *primals)[:2]
    push = torch.func.vjp(pull, torch.zeros_like(value))[1]
    moved: Tensor = push(tangents)[0]
    return moved
