"""Categorical operators as modules."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import (
    ArgumentError,
    apply_mask,
    check_count,
    check_dim,
    check_flag,
    check_limit,
    check_outcomes,
    check_rows,
)
from ..core.precision import in_compute_dtype
from ..estimators import CategoricalEstimator, GumbelST
from ..ops.categorical import api
from ..ops.categorical.reference import argmax_index
from ..relaxations import Softmax
from ..relaxations.jacobian import tempered
from .base import EstimatorModule, Number, RuleModule
from .checked import Checks
from .control import ControlVariate


def _check_control(name: str, value: object) -> None:
    if not isinstance(value, ControlVariate | None):
        raise ArgumentError(f"{name} must be a ControlVariate or None, got {value!r}")


class Categorical(EstimatorModule[CategoricalEstimator]):
    """`st.categorical` as a module; in `eval()` the one-hot of the likeliest class.

    Args:
        estimator: a `CategoricalEstimator` or its shorthand.
        dim: the dimension of the classes.
        control: a `ControlVariate`, which takes variance from the gradient; none by default.
        fields: numbers or schedules for the estimator's fields.

    Example:
        >>> sample = st.nn.Categorical("reinmax", tau=1.1).eval()
        >>> sample(torch.tensor([0.0, 2.0, 1.0]))
        tensor([0., 1., 0.])
    """

    dim: int
    numbers: ClassVar[Checks] = {"dim": check_dim}
    checks: ClassVar[Checks] = {"control": _check_control}

    def __init__(
        self,
        estimator: CategoricalEstimator | str = "reinmax",
        *,
        dim: int = -1,
        control: ControlVariate | None = None,
        **fields: Number,
    ) -> None:
        super().__init__(estimator, (CategoricalEstimator,), fields)
        self.dim, self.control = dim, control

    def forward(self, logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if not self.training:
            return api.argmax(logits, dim=self.dim, mask=mask)
        self.observe(logits, self.dim, mask)

        def draw(logits: Tensor) -> Tensor:
            return api.categorical(logits, self.rule, dim=self.dim, mask=mask)

        def mean(logits: Tensor) -> Tensor:
            tau = self.rule.tau_forward
            return (apply_mask("logits", logits, mask).float() / tau).softmax(self.dim)

        return draw(logits) if self.control is None else self.control(logits, draw, mean)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dim={self.dim}"


class CategoricalInteger(EstimatorModule[CategoricalEstimator]):
    """`st.categorical_integer` as a module; in `eval()` the number of the likeliest class.

    Args:
        estimator: a `CategoricalEstimator` or its shorthand.
        dim: the dimension of the classes.
        fields: numbers or schedules for the estimator's fields.

    Example:
        >>> sample = st.nn.CategoricalInteger().eval()
        >>> sample(torch.tensor([0.0, 1.0, 2.0]))
        tensor(2.)
    """

    dim: int
    numbers: ClassVar[Checks] = {"dim": check_dim}

    def __init__(
        self,
        estimator: CategoricalEstimator | str = "mve_integer",
        *,
        dim: int = -1,
        **fields: Number,
    ) -> None:
        super().__init__(estimator, (CategoricalEstimator,), fields)
        self.dim = dim

    def forward(self, logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if self.training:
            self.observe(logits, self.dim, mask)
            return api.categorical_integer(logits, self.rule, dim=self.dim, mask=mask)
        y = api.argmax(logits, dim=self.dim, mask=mask).movedim(self.dim, -1)
        api.check_holds_numbers(logits, y.shape[-1])
        return (y * torch.arange(y.shape[-1], dtype=y.dtype, device=y.device)).sum(-1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dim={self.dim}"


class Argmax(RuleModule[Softmax]):
    """`st.argmax` as a module; no noise, so `eval()` changes nothing.

    Args:
        tau: temperature of the backward, a number or a schedule.
        dim: the dimension of the classes.

    Example:
        >>> st.nn.Argmax(tau=0.5)(torch.tensor([0.0, 2.0, 1.0]))
        tensor([0., 1., 0.])
    """

    tau: Number
    dim: int
    numbers: ClassVar[Checks] = {"dim": check_dim}

    def __init__(self, tau: Number = 1.0, dim: int = -1) -> None:
        super().__init__("estimator", Softmax(), (Softmax,), {"tau": tau})
        self.dim = dim

    def forward(self, logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if self.training:
            self.observe(logits, self.dim, mask)
        return api.argmax(logits, tau=self.rule.tau, dim=self.dim, mask=mask)

    def extra_repr(self) -> str:
        return f"tau={self.rule.tau}, dim={self.dim}"


class GumbelSoftmax(RuleModule[GumbelST]):
    """`st.gumbel_softmax` as a module.

    In `eval()` it is `softmax(logits / tau)`, with `hard=True` the one-hot of the argmax.

    Args:
        tau: temperature, a number or a schedule.
        hard: whether the value is one-hot.
        dim: the dimension of the classes.

    Example:
        >>> tau = st.nn.schedules.Exponential(1.0, 0.1, steps=1000)
        >>> relax = st.nn.GumbelSoftmax(tau).eval()
        >>> relax(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """

    tau: Number
    hard: bool
    dim: int
    numbers: ClassVar[Checks] = {"hard": check_flag, "dim": check_dim}

    def __init__(self, tau: Number = 1.0, hard: bool = False, dim: int = -1) -> None:
        super().__init__("estimator", GumbelST(), (GumbelST,), {"tau": tau})
        self.hard, self.dim = hard, dim

    def forward(self, logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
        tau = self.rule.tau
        if self.training:
            self.observe(logits, self.dim, mask)
            return api.gumbel_softmax(logits, tau, self.hard, dim=self.dim, mask=mask)
        if self.hard:
            return api.argmax(logits, tau=tau, dim=self.dim, mask=mask)
        check_rows("logits", logits, self.dim)
        rows = apply_mask("logits", logits, mask).movedim(self.dim, -1)
        y = in_compute_dtype(tempered, rows, tau).movedim(-1, self.dim)
        check_outcomes("gumbel_softmax", lambda: y.select(self.dim, 0).isnan())
        return y

    def extra_repr(self) -> str:
        return f"tau={self.rule.tau}, hard={self.hard}, dim={self.dim}"


class CategoricalLookup(EstimatorModule[CategoricalEstimator]):
    """`st.categorical_lookup` with a table of its own, as an embedding has one.

    In `eval()` it is the row of the likeliest class, and the logits get no gradient. Under
    `torch.autocast` the rows come in the dtype of the logits, and the table, which stays in its
    own, gets its gradient in that.

    Args:
        classes: C, the number of rows.
        features: D, their length.
        estimator: a `CategoricalEstimator` or its shorthand.
        dim: the dimension of the classes in the logits.
        device, dtype: of the table.
        fields: numbers or schedules for the estimator's fields.

    Attributes:
        table: the parameter, `(C, D)`, standard normal at the start.

    Example:
        >>> lookup = st.nn.CategoricalLookup(4, 16)
        >>> lookup(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3, 16])
    """

    dim: int
    numbers: ClassVar[Checks] = {"dim": check_dim}

    def __init__(
        self,
        classes: int,
        features: int,
        estimator: CategoricalEstimator | str = "reinmax",
        *,
        dim: int = -1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **fields: Number,
    ) -> None:
        super().__init__(estimator, (CategoricalEstimator,), fields)
        self.dim = dim
        size = check_count("classes", classes), check_limit("features", features)
        self.table = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        nn.init.normal_(self.table)

    def forward(self, logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if self.training:
            self.observe(logits, self.dim, mask)
            rule = self.rule
            return api.categorical_lookup(logits, self.table, rule, dim=self.dim, mask=mask)
        check_rows("logits", logits, self.dim)
        table = api.check_table(logits, logits.shape[self.dim], self.table)
        index = argmax_index(apply_mask("logits", logits, mask).movedim(self.dim, -1))
        check_outcomes("categorical_lookup", lambda: index < 0)
        rows = table[index.clamp(min=0)]
        return torch.where((index < 0).unsqueeze(-1), torch.nan, rows)

    def extra_repr(self) -> str:
        classes, features = self.table.shape
        return f"{classes}, {features}, {super().extra_repr()}, dim={self.dim}"
