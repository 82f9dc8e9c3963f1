"""Backward rules: frozen dataclasses, hashable, printable, picklable.

Of their three forms `Derivative` and `Relaxation` stand here; the third, an estimator of a family,
in `estimators`. A rule writes its formula: `derivative`, `soft` or `gradient`. `backward` is what
the engine asks, with the kernel or the storage that serves; `vjp` is the checked entry.
"""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .errors import ArgumentError, ShapeError, check_floating, check_k, check_number, check_rows
from .internals import push_forward, transforms_active
from .kernels import has_kernel
from .portable import Portable, check_field
from .precision import cast, compute_dtype, in_compute_dtype


class Rule(Portable, ABC):  # abstract by its forms
    """What a gradient pretends the hard forward was.

    Its fields are numbers, strings, None, other rules, and tuples of these. Numbers are Python's
    or, in compiled code, 0-d tensors: formulas use torch's functions on them, and don't branch on
    them.
    """

    draws_noise: ClassVar[bool] = False  # of its own, in backward
    linear: ClassVar[bool] = True  # in the gradient to the value; else there is no forward mode
    tau_forward: float = 1.0  # forward draws from softmax(logits / tau_forward); 0: the largest

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "vjp" in vars(cls) and any("vjp" in vars(base) for base in cls.__mro__[1:]):
            raise TypeError(
                f"{cls.__name__} overrides vjp, which checks arguments and is not what training "
                f"asks; write the formula instead: derivative, soft or gradient"
            )

    def __post_init__(self) -> None:
        if is_compiling():  # where a graph is made, they are looked at as they are written down
            return
        for name, value in vars(self).items():
            check_field(name, value)

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
        read = {name: _settled(name, v) for name, v in fields.items() if type(v) not in _FIXED}
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


def _settled(name: str, value: object) -> Any:
    """Return what a field holds, the numbers in it as they are now."""
    if value is None or type(value) in _FIXED:
        return value
    if isinstance(value, tuple):
        return tuple(_settled(name, each) for each in value)
    if isinstance(value, Portable):
        return value.settled() if isinstance(value, Rule) else value
    check_field(name, value)
    return check_number(name, value)


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


class Saved(enum.Enum):
    """What a pointwise rule, or that of a pair, has to know in backward, beside the gradient."""

    NOTHING = "nothing: the gradient passes unchanged"
    INPUT = "the input"
    WINDOW = "one bit an element: whether it is within bounds"


_Formula = TypeVar("_Formula", bound=Callable[..., Any])


def saves(saved: Saved) -> Callable[[_Formula], _Formula]:
    """Say of a `derivative`, or of a pair's `gradient`, what it needs, if that is not its input.

    This and the kernel of a formula are marks on the function, so that a subclass with a formula
    of its own has neither.
    """

    def mark(formula: _Formula) -> _Formula:
        formula.saves = saved  # type: ignore[attr-defined]  # functions take any
        return formula

    return mark


class Derivative(Rule):
    """A pointwise rule: backward multiplies the gradient by `derivative(x)`.

    `primitive(x)` is the smooth function that the derivative belongs to, where there is one.
    """

    saved: ClassVar[Saved] = Saved.INPUT
    """What backward has to know: the input, unless `saves` says less of the formula."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.saved = getattr(cls.derivative, "saves", Saved.INPUT)

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
        kernel: Any = getattr(type(self).derivative, "kernel", None)
        if kernel is not None and has_kernel(x, grad, kernel.operator):
            return kernel(self, x, grad)
        if self.saved is Saved.NOTHING:
            return grad.to(x.dtype)
        rule = self.in_dtype(compute_dtype(x.dtype))
        return in_compute_dtype(lambda x, grad: grad * rule.derivative(x), x, grad)


class Relaxation(Rule):
    """A rule given by a smooth function of the same shape, differentiated in backward only."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = vars(cls)
        if "soft" in own and "soft_topk" not in own and cls.soft_topk is not Relaxation.soft_topk:
            raise TypeError(
                f"{cls.__name__} overrides soft, and inherits soft_topk, which topk asks; "
                f"write soft_topk too"
            )

    @abstractmethod
    def soft(self, x: Tensor) -> Tensor:
        """Return the relaxed value of `x`, of an argmax the relaxed one-hot."""

    def soft_topk(self, x: Tensor, k: int) -> Tensor:
        """Return the relaxed k-hot of the k largest; `k soft(x)` unless a rule knows better."""
        return k * self.soft(x)

    def vjp(self, x: Tensor, grad: Tensor, *, k: int = 1) -> Tensor:
        """Return `J^T grad` in the dtype of `x`, J the Jacobian of `soft_topk` at `x`.

        Raises:
            DtypeError, ShapeError, ArgumentError: unless both are floating, of one shape
                `(..., C)`, on one device, and k lies in 1..C.
        """
        k = _check_choice(x, grad, k)
        return without_graph(self.settled().backward, x, grad, k)

    def jvp(self, x: Tensor, tangent: Tensor, *, k: int = 1) -> Tensor:
        """Return `J tangent`, J the Jacobian of `soft_topk` at `x`; raises as `vjp` does."""
        k = _check_choice(x, tangent, k)
        soft = self.settled().in_dtype(compute_dtype(x.dtype)).soft_topk

        def formula(x: Tensor, tangent: Tensor) -> Tensor:
            moved: Tensor = torch.func.jvp(lambda x: soft(x, k), (x,), (tangent,))[1]
            return moved

        return in_compute_dtype(formula, x, tangent)

    def backward(self, x: Tensor, grad: Tensor, k: int = 1) -> Tensor:
        """Return what `vjp` does, of tensors that need no check."""
        soft = self.in_dtype(compute_dtype(x.dtype)).soft_topk

        def formula(x: Tensor, grad: Tensor) -> Tensor:
            gradient: Tensor = torch.func.vjp(lambda x: soft(x, k), x)[1](grad)[0]
            return gradient

        return in_compute_dtype(formula, x, grad)

    def forward(self, x: Tensor, tangent: Tensor, k: int = 1) -> Tensor:
        """Return what `jvp` does, where an operation's `jvp` is asked for."""
        soft = self.in_dtype(compute_dtype(x.dtype)).soft_topk

        def formula(x: Tensor, tangent: Tensor) -> Tensor:
            return push_forward(lambda x: soft(x, k), (x,), (tangent,))

        return in_compute_dtype(formula, x, tangent)


def _check_choice(x: Tensor, grad: Tensor, k: object) -> int:
    """Return k, if so many of the classes of `x` can be chosen, and `grad` is alike."""
    check_like("x", x, grad)
    check_rows("x", x, -1)
    return check_k(k, x.shape[-1])
