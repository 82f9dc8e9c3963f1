"""What advice says of one estimator at one temperature."""

from __future__ import annotations

from dataclasses import dataclass

from ...estimators import CategoricalEstimator


@dataclass(frozen=True)
class Candidate:
    """What advice says about one estimator at one temperature, the gradient as one vector.

    Attributes:
        name: the shorthand of the rule.
        rule: the rule itself.
        tau: its temperature; None if it has none.
        bias_squared: the squared norm of the mean estimate less the true gradient; an unbiased
            estimate, which may fall below 0.
        variance: the trace of the covariance of one estimate.
        mse: `bias_squared + variance / batch`, the mean squared error of an average over a batch.
        cosine: of the mean estimate and the true gradient.
        seconds: of the rule's backward at a batch, the least of a few calls.
        interval: 95% confidence limits of `mse`; both are `mse` where it is exact.
    """

    name: str
    rule: CategoricalEstimator
    tau: float | None
    bias_squared: float
    variance: float
    mse: float
    cosine: float
    seconds: float
    interval: tuple[float, float]
