"""What advice says of one estimator at one temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...estimators import CategoricalEstimator
from ..compare.moments import relative

ZERO = "zero gradient"
"""The name of the yardstick: what never learns, and has no variance."""


@dataclass(frozen=True)
class Candidate:
    """What advice says about one estimator at one temperature, the gradient as one vector.

    Attributes:
        name: the shorthand of the rule, with those of its fields that are not as by default, the
            temperature left out: `"gumbel_rao(samples=50)"`; or `"zero gradient"`.
        rule: the rule itself; None for the zero gradient.
        tau: its temperature; None if it has none that is a number.
        bias_squared: the squared norm of the mean estimate less the true gradient; an unbiased
            estimate, which may fall below 0.
        variance: the trace of the covariance of one estimate.
        mse: `bias_squared + variance / batch`, the mean squared error of an average over a batch.
        gradient_squared: the squared norm of the true gradient.
        cosine: of the mean estimate and the true gradient; NaN where one of them is 0.
        interval: 95% confidence limits of `relative_squared_bias`; both are equal to it where it
            is exact.
        seconds: of the rule's backward at a batch, the least of several calls.
    """

    name: str
    rule: CategoricalEstimator | None
    tau: float | None
    bias_squared: float
    variance: float
    mse: float
    gradient_squared: float
    cosine: float
    interval: tuple[float, float]
    seconds: float

    @property
    def relative_squared_bias(self) -> float:
        """`bias_squared / gradient_squared`, as in a row of `compare`."""
        return relative(self.bias_squared, self.gradient_squared)

    @property
    def relative_error(self) -> float:
        """`mse / gradient_squared`."""
        return relative(self.mse, self.gradient_squared)

    @property
    def label(self) -> str:
        """The rule as it prints."""
        return self.name if self.rule is None else repr(self.rule)


def zero(gradient_squared: float) -> Candidate:
    """Return the row of a gradient that is always 0: all bias, and no variance."""
    return Candidate(
        name=ZERO,
        rule=None,
        tau=None,
        bias_squared=gradient_squared,
        variance=0.0,
        mse=gradient_squared,
        gradient_squared=gradient_squared,
        cosine=math.nan,
        interval=(relative(gradient_squared, gradient_squared),) * 2,
        seconds=0.0,
    )
