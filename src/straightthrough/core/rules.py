"""Backward rules: frozen dataclasses, hashable, printable, picklable.

Of their three forms `Derivative` and `Relaxation` stand here; the third, which needs noise, is
`Estimator` in `estimators/base.py`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .errors import ArgumentError, ShapeError, check_floating, check_number
from .internals import push_forward, transforms_active
from .kernels import has_kernel
from .portable import Portable


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


class Rule(Portable, ABC):  # abstract by its forms
    """What a gradient pretends the hard forward was.

    Its numbers are Python's or, in compiled code, 0-d tensors: formulas use torch's functions on
    them, and don't branch on them.
    """

    def settled(self) -> Self:
        """Return the rule with the numbers that it has now, where a field may change: a tensor."""
        if is_compiling():
            return self
        fields = vars(self)
        for value in fields.values():
            if type(value) not in _FIXED:
                break
        else:
            return self
        read = {name: check_number(name, v) for name, v in fields.items() if type(v) not in _FIXED}
        return dataclasses.replace(self, **read)  # type: ignore[type-var]  # all are dataclasses

    def in_dtype(self, dtype: torch.dtype) -> Self:
        """Return the rule with those of its numbers that are tensors in `dtype`."""
        fields = vars(self)
        if not any(isinstance(value, Tensor) for value in fields.values()):
            return self
        rule = object.__new__(type(self))
        for name, value in fields.items():
            object.__setattr__(rule, name, cast(value, dtype))
        return rule


_FIXED = (float, int, str, bool)


def cast(number: Any, dtype: torch.dtype) -> Any:
    """Return a number that is a tensor in `dtype`, anything else as it is."""
    return number.to(dtype) if isinstance(number, Tensor) else number


def without_graph(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """Call `function`, where nothing requires a gradient without recording one: kernels do not."""
    if transforms_active() or any(isinstance(a, Tensor) and a.requires_grad for a in args):
        return function(*args)
    with torch.no_grad():
        return function(*args)


def check_like(name: str, tensor: Tensor, grad: Tensor) -> None:
    """Raise unless `tensor` and the gradient to a value of its shape are floating and alike."""
    check_floating(name, tensor)
    check_floating("grad", grad)
    if tensor.shape != grad.shape:
        raise ShapeError(
            f"{name} and grad must have one shape, got {tuple(tensor.shape)} and "
            f"{tuple(grad.shape)}"
        )
    if tensor.device != grad.device:
        raise ArgumentError(
            f"{name} and grad must be on one device, got {tensor.device} and {grad.device}"
        )


class Derivative(Rule):
    """A pointwise rule: backward multiplies the gradient by `derivative(x)`.

    `primitive(x)` is the smooth function that the derivative belongs to, where there is one.
    """

    kernel: ClassVar[Callable[..., Tensor] | None] = None  # of `backward`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
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
        """Return `grad * derivative(x)` in the dtype of `x`, half precision computed in float32.

        Raises:
            DtypeError, ShapeError, ArgumentError: unless both are floating, of one shape, on one
                device.
        """
        check_like("x", x, grad)
        return without_graph(self.settled().backward, x, grad)

    def jvp(self, x: Tensor, tangent: Tensor) -> Tensor:
        """Return `derivative(x) * tangent`: a diagonal Jacobian is its own transpose."""
        return self.vjp(x, tangent)

    def backward(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return what `vjp` does, of tensors that need no check."""
        if self.kernel is not None and has_kernel(x, grad):
            return self.kernel(x, grad, *vars(self).values())
        return self.by_formula(x, grad)

    def by_formula(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return what `backward` does, without a kernel."""
        wide = compute_dtype(x.dtype)
        return narrowed(grad.to(wide) * self.in_dtype(wide).derivative(x.to(wide)), x.dtype)

    @property
    def within(self) -> tuple[Any, bool] | None:
        """Where a rule of two values has one of them: the bound of `|x|`, and if it is inside."""
        return None

    needs_input: ClassVar[bool] = True
    """Whether `pull` has to know `x`."""

    def pull(self, grad: Tensor, kept: Sequence[Tensor], centre: float) -> Tensor:
        """Return `grad * derivative(x - centre)` in the dtype of `grad`, of what was saved."""
        return narrowed(self.backward(centred(kept[0], centre), grad), grad.dtype)


def centred(x: Tensor, centre: Any) -> Tensor:
    """Return `x - centre`, in what `x` is computed in where it is moved."""
    if not isinstance(centre, Tensor) and centre == 0:
        return x
    wide = compute_dtype(x.dtype)
    return x.to(wide) - cast(centre, wide)


class Relaxation(Rule):
    """A rule given by a smooth function of the same shape, differentiated in backward only."""

    @abstractmethod
    def soft(self, x: Tensor) -> Tensor:
        """Return the relaxed value of `x`."""

    def vjp(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return `J^T grad` in the dtype of `x`, J the Jacobian of `soft` at `x`.

        Raises:
            DtypeError, ShapeError, ArgumentError: unless both are floating, of one shape, on one
                device.
        """
        check_like("x", x, grad)
        return without_graph(self.settled().backward, x, grad)

    def jvp(self, x: Tensor, tangent: Tensor) -> Tensor:
        """Return `J tangent`, J the Jacobian of `soft` at `x`; raises as `vjp` does."""
        check_like("x", x, tangent)
        wide, rule = compute_dtype(x.dtype), self.settled()
        soft = rule.in_dtype(wide).soft
        moved: Tensor = torch.func.jvp(soft, (x.to(wide),), (tangent.to(wide),))[1]
        return narrowed(moved, x.dtype)

    def backward(self, x: Tensor, grad: Tensor, scale: float = 1.0) -> Tensor:
        """Return `scale` times what `vjp` does, of tensors that need no check."""
        wide = compute_dtype(x.dtype)
        pull = torch.func.vjp(self.in_dtype(wide).soft, x.to(wide))[1]
        return narrowed(scale * pull(grad.to(wide))[0], x.dtype)

    def forward(self, x: Tensor, tangent: Tensor, scale: float = 1.0) -> Tensor:
        """Return `scale` times what `jvp` does, where an operation's `jvp` is asked for."""
        wide = compute_dtype(x.dtype)
        soft = self.in_dtype(wide).soft
        moved = push_forward(soft, (x.to(wide),), (tangent.to(wide),))
        return narrowed(scale * moved, x.dtype)
