"""Pointwise operators as modules; no noise, so `eval()` changes nothing."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..core.errors import check_at_least, check_number
from ..core.rules import Derivative
from ..ops.pointwise import api
from ..surrogates import Clipped, Identity, Sigmoid
from .base import Number, RuleModule, ends
from .checked import Checks


class Pointwise(RuleModule[Derivative]):
    """A module over a pointwise operator: a surrogate and its fields."""

    def __init__(self, surrogate: Derivative | str, **fields: Number) -> None:
        super().__init__("surrogate", surrogate, (Derivative,), fields)

    @property
    def surrogate(self) -> Derivative:
        """The rule as it is now; a rule or a shorthand may be assigned, with all its numbers."""
        return self.rule

    @surrogate.setter
    def surrogate(self, given: Derivative | str) -> None:
        self._give(given, {})


class Sign(Pointwise):
    """`st.sign` as a module.

    Args:
        surrogate: a `Derivative` or its shorthand.
        fields: numbers or schedules for its fields.

    Example:
        >>> sign = st.nn.Sign("tanh", slope=st.nn.schedules.Linear(1, 10, steps=100))
        >>> sign(torch.tensor([-2.0, 0.5])), sign.rule
        (tensor([-1.,  1.]), Tanh(slope=1.0))
    """

    def __init__(self, surrogate: Derivative | str = Clipped(), **fields: Number) -> None:
        super().__init__(surrogate, **fields)

    def forward(self, x: Tensor) -> Tensor:
        return api.sign(x, surrogate=self.rule)


class Heaviside(Pointwise):
    """`st.heaviside` as a module.

    Args:
        threshold: where the step is, a number or a schedule.
        surrogate: a `Derivative` or its shorthand.
        fields: numbers or schedules for its fields.

    Example:
        >>> st.nn.Heaviside(0.5, surrogate="identity")(torch.tensor([0.2, 0.7]))
        tensor([0., 1.])
    """

    threshold: Number
    numbers: ClassVar[Checks] = {"threshold": api.check_threshold}

    def __init__(
        self, threshold: Number = 0.0, surrogate: Derivative | str = Sigmoid(), **fields: Number
    ) -> None:
        super().__init__(surrogate, **fields)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return api.heaviside(x, self.number("threshold"), surrogate=self.rule)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, {super().extra_repr()}"


class Round(Pointwise):
    """`st.round` as a module.

    Args:
        surrogate: a `Derivative` or its shorthand.
        fields: numbers or schedules for its fields.

    Example:
        >>> st.nn.Round()(torch.tensor([0.5, 1.5]))
        tensor([0., 2.])
    """

    def __init__(self, surrogate: Derivative | str = Identity(), **fields: Number) -> None:
        super().__init__(surrogate, **fields)

    def forward(self, x: Tensor) -> Tensor:
        return api.round(x, surrogate=self.rule)


class Floor(Pointwise):
    """`st.floor` as a module; arguments as in `Round`.

    Example:
        >>> st.nn.Floor()(torch.tensor([-0.5]))
        tensor([-1.])
    """

    def __init__(self, surrogate: Derivative | str = Identity(), **fields: Number) -> None:
        super().__init__(surrogate, **fields)

    def forward(self, x: Tensor) -> Tensor:
        return api.floor(x, surrogate=self.rule)


class Ceil(Pointwise):
    """`st.ceil` as a module; arguments as in `Round`.

    Example:
        >>> st.nn.Ceil()(torch.tensor([0.5]))
        tensor([1.])
    """

    def __init__(self, surrogate: Derivative | str = Identity(), **fields: Number) -> None:
        super().__init__(surrogate, **fields)

    def forward(self, x: Tensor) -> Tensor:
        return api.ceil(x, surrogate=self.rule)


class Trunc(Pointwise):
    """`st.trunc` as a module; arguments as in `Round`.

    Example:
        >>> st.nn.Trunc()(torch.tensor([-1.5]))
        tensor([-1.])
    """

    def __init__(self, surrogate: Derivative | str = Identity(), **fields: Number) -> None:
        super().__init__(surrogate, **fields)

    def forward(self, x: Tensor) -> Tensor:
        return api.trunc(x, surrogate=self.rule)


class Clamp(Pointwise):
    """`st.clamp` as a module.

    Args:
        min, max: the range, numbers or schedules, min <= max; of both, assign first the one that
            makes room for the other.
        surrogate: a `Derivative` or its shorthand.
        fields: numbers or schedules for its fields.

    Example:
        >>> st.nn.Clamp(-1, 1)(torch.tensor([-3.0, 0.5]))
        tensor([-1.0000,  0.5000])
    """

    min: Number
    max: Number
    numbers: ClassVar[Checks] = {"min": check_number, "max": check_number}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.numbers:
            low = value if name == "min" else getattr(self, "min", value)
            high = value if name == "max" else getattr(self, "max", value)
            for bounds in zip(ends(low), ends(high), strict=True):
                api.check_bounds(*bounds)
        super().__setattr__(name, value)

    def __init__(
        self,
        min: Number,
        max: Number,
        surrogate: Derivative | str = Identity(),
        **fields: Number,
    ) -> None:
        super().__init__(surrogate, **fields)
        self.min, self.max = min, max

    def forward(self, x: Tensor) -> Tensor:
        return api.clamp(x, self.number("min"), self.number("max"), surrogate=self.rule)

    def extra_repr(self) -> str:
        return f"min={self.min}, max={self.max}, {super().extra_repr()}"


def _check_dead_zone(name: str, value: object) -> Any:
    return check_at_least(name, value, 0)


class Ternary(Pointwise):
    """`st.ternary` as a module.

    Args:
        threshold: half of the dead zone, a number or a schedule.
        surrogate: a `Derivative` or its shorthand.
        fields: numbers or schedules for its fields.

    Example:
        >>> st.nn.Ternary(0.5)(torch.tensor([-2.0, 0.1]))
        tensor([-1.,  0.])
    """

    threshold: Number
    numbers: ClassVar[Checks] = {"threshold": _check_dead_zone}

    def __init__(
        self, threshold: Number, surrogate: Derivative | str = Clipped(), **fields: Number
    ) -> None:
        super().__init__(surrogate, **fields)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return api.ternary(x, self.number("threshold"), surrogate=self.rule)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, {super().extra_repr()}"
