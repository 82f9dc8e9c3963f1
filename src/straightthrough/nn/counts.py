"""Counts as modules: in `eval()` the mean rounded to a count, with its gradient."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..core.errors import check_outcomes, check_positive
from ..estimators import CountEstimator
from ..ops.counts import api
from ..ops.counts.families import Family
from ..ops.pointwise.api import round
from .base import EstimatorModule, Number, check_parameter
from .checked import Checks


class Count(EstimatorModule[CountEstimator]):
    """A module over a count: its rule and the order."""

    def __init__(self, estimator: CountEstimator | str = "fini", **fields: Number) -> None:
        super().__init__(estimator, (CountEstimator,), fields)


class Poisson(Count):
    """`st.poisson` as a module; in `eval()` the rate rounded to a count, with its gradient.

    In eager code on the CPU a negative rate raises; elsewhere it gives NaN.

    Args:
        estimator: a `Fini`, or `"fini"`.
        fields: its `order`.

    Example:
        >>> st.nn.Poisson(order=3).eval()(torch.tensor([0.3, 7.6]))
        tensor([0., 8.])
    """

    def forward(self, rate: Tensor | None = None, *, log_rate: Tensor | None = None) -> Tensor:
        check_parameter("rate", rate, "log_rate", log_rate)
        if self.training:
            return api.poisson(rate, log_rate=log_rate, estimator=self.rule)
        return _rounded_mean("poisson", *api.poisson_family(rate, log_rate))


class Binomial(Count):
    """`st.binomial` as a module; in `eval()` the mean rounded to a count, with its gradient.

    In eager code on the CPU a probability outside [0, 1] raises; elsewhere it gives NaN.

    Args:
        total_count: the number of trials, an int in [1, 32768].
        estimator: a `Fini`, or `"fini"`.
        fields: its `order`.

    Example:
        >>> st.nn.Binomial(10).eval()(probs=torch.tensor([0.0, 0.32]))
        tensor([0., 3.])
    """

    total_count: int
    numbers: ClassVar[Checks] = {"total_count": api.check_trials}

    def __init__(
        self, total_count: int, estimator: CountEstimator | str = "fini", **fields: Number
    ) -> None:
        super().__init__(estimator, **fields)
        self.total_count = total_count

    def forward(self, logits: Tensor | None = None, *, probs: Tensor | None = None) -> Tensor:
        check_parameter("probs", probs, "logits", logits, most=1)
        count = self.total_count
        if self.training:
            return api.binomial(logits, probs=probs, total_count=count, estimator=self.rule)
        return _rounded_mean("binomial", *api.binomial_family(logits, probs, count))

    def extra_repr(self) -> str:
        return f"total_count={self.total_count}, {super().extra_repr()}"


class Geometric(Count):
    """`st.geometric` as a module; in `eval()` the mean rounded to a count, with its gradient.

    In eager code on the CPU a probability outside (0, 1] raises; elsewhere it gives NaN.

    Args:
        estimator: a `Fini`, or `"fini"`.
        fields: its `order`.

    Example:
        >>> st.nn.Geometric().eval()(probs=torch.tensor([0.25, 1.0]))
        tensor([3., 0.])
    """

    def forward(self, logits: Tensor | None = None, *, probs: Tensor | None = None) -> Tensor:
        check_parameter("probs", probs, "logits", logits, most=1, without=0)
        if self.training:
            return api.geometric(logits, probs=probs, estimator=self.rule)
        return _rounded_mean("geometric", *api.geometric_family(logits, probs))


class NegativeBinomial(Count):
    """`st.negative_binomial` as a module; in `eval()` the mean rounded to a count.

    In eager code on the CPU a probability outside [0, 1) raises; elsewhere it gives NaN.

    Args:
        total_count: the number of failures, > 0, a number or, but in compiled code, a schedule.
        estimator: a `Fini`, or `"fini"`.
        fields: its `order`.

    Example:
        >>> st.nn.NegativeBinomial(2.0).eval()(torch.tensor([0.0, 1.0]))
        tensor([2., 5.])
    """

    total_count: Number
    numbers: ClassVar[Checks] = {"total_count": check_positive}

    def __init__(
        self, total_count: Number, estimator: CountEstimator | str = "fini", **fields: Number
    ) -> None:
        super().__init__(estimator, **fields)
        self.total_count = total_count

    def forward(self, logits: Tensor | None = None, *, probs: Tensor | None = None) -> Tensor:
        check_parameter("probs", probs, "logits", logits, most=1, without=1)
        count, rule = self.number("total_count"), self.rule
        if self.training:
            return api.negative_binomial(logits, probs=probs, total_count=count, estimator=rule)
        return _rounded_mean(
            "negative_binomial", *api.negative_binomial_family(logits, probs, count)
        )

    def extra_repr(self) -> str:
        return f"total_count={self.total_count}, {super().extra_repr()}"


def _rounded_mean(name: str, x: Tensor, family: Family) -> Tensor:
    y = round(family.mean(x)).to(x.dtype)
    check_outcomes(name, lambda: y.isnan(), api.NO_COUNT)
    return y
