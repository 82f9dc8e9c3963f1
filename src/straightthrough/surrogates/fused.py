"""Rules whose backward is one pass over memory."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from torch import Tensor

from ..core.kernels import served
from ..core.precision import cast, compute_dtype, in_compute_dtype
from ..core.rules import Derivative

_Derivative = TypeVar("_Derivative", bound=type[Derivative])


def fused(cls: _Derivative) -> _Derivative:
    """Serve the class's formula in backward by the kernel of its name, which takes its fields."""
    fields = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]  # is one
    arguments = "".join(f", float {name}" for name in fields)

    def reference(x: Tensor, grad: Tensor, *values: float) -> Tensor:
        rule = object.__new__(cls)  # its fields were checked when it was made
        for name, value in zip(fields, values, strict=True):
            object.__setattr__(rule, name, cast(value, compute_dtype(x.dtype)))
        return in_compute_dtype(lambda x, grad: grad * rule.derivative(x), x, grad)

    reference.__module__ = cls.__module__
    serve = served(cls.__name__, f"(Tensor x, Tensor grad{arguments}) -> Tensor", reference)

    def kernel(rule: Derivative, x: Tensor, grad: Tensor) -> Tensor:
        numbers = vars(rule)
        return serve(
            x, grad, *(numbers.values() if type(rule) is cls else map(numbers.get, fields))
        )

    kernel.operator = cls.__name__  # type: ignore[attr-defined]  # functions take any
    cls.derivative.kernel = kernel  # type: ignore[attr-defined]  # as `saves` does
    return cls
