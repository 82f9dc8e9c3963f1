"""Rules whose backward is one pass over memory."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from torch import Tensor

from ..core.kernels import served
from ..core.rules import Derivative

_Derivative = TypeVar("_Derivative", bound=type[Derivative])


def fused(cls: _Derivative) -> _Derivative:
    """Serve the rule's `backward` by the kernel of the class's name, which takes its fields."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # every rule is a dataclass
    arguments = "".join(f", float {field.name}" for field in fields)

    def reference(x: Tensor, grad: Tensor, *values: float) -> Tensor:
        rule = object.__new__(cls)  # its fields were checked when it was made
        for field, value in zip(fields, values, strict=True):
            object.__setattr__(rule, field.name, value)
        return rule.by_formula(x, grad)

    reference.__module__ = cls.__module__
    schema = f"(Tensor x, Tensor grad{arguments}) -> Tensor"
    cls.kernel = staticmethod(served(cls.__name__, schema, reference))
    return cls
