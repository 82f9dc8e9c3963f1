"""What an audit says of one estimator."""

from __future__ import annotations

from dataclasses import dataclass, field

from .moments import Moments, relative


@dataclass(frozen=True)
class StandardErrors:
    """The standard errors of a row's numbers, where outcomes were drawn."""

    bias_squared: float
    variance: float
    cosine: float
    mse: float


@dataclass(frozen=True)
class Row:
    """What an audit says about one estimator, the gradient taken as one vector.

    Attributes:
        name: the shorthand that was given, or the rule as it prints.
        bias_squared: the squared norm of the mean estimate less the exact gradient.
        variance: the trace of the estimate's covariance, over outcomes and the rule's noise.
        cosine: of the mean estimate and the exact gradient; NaN where one of them is 0.
        mse: `bias_squared + variance`, the mean squared norm of the error.
        gradient_squared: the squared norm of the exact gradient; where outcomes were drawn an
            unbiased estimate, which may fall below 0.
        seconds: wall time of the rule's calls and their sums; at enumerated outcomes a rule that
            draws noise is called `samples` times each, others once.
        standard_errors: of the other numbers, where outcomes were drawn; None where they were
            enumerated.
        moments: what averages over several audits are made of, for `advise`.
        flaw: why its numbers are not finite, and at which outcome first; "" where they are.
    """

    name: str
    bias_squared: float
    variance: float
    cosine: float
    mse: float
    gradient_squared: float
    seconds: float
    standard_errors: StandardErrors | None = None
    moments: Moments | None = field(default=None, repr=False, compare=False)
    flaw: str = ""

    @property
    def relative_squared_bias(self) -> float:
        """`bias_squared / gradient_squared`, what ranks estimators: 1 for an estimate of zero.

        With `rescale` it is `2 (1 - cosine)`. NaN where the gradient is 0.
        """
        return relative(self.bias_squared, self.gradient_squared)
