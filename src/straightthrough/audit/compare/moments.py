"""What the numbers of a row are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Moments:
    """Squares and products without bias, of a mean estimate m as it is and the true gradient g.

    Attributes:
        length: the squared norm of m.
        along: the product of m and g.
        exact: the squared norm of g.
        variance: of one estimate.
    """

    length: float
    along: float
    exact: float
    variance: float

    def factor(self, rescale: bool) -> float:
        """Return what m is scaled by; where the norm seems to be 0 it stays."""
        if not rescale or self.length <= 0:
            return 1.0
        return math.sqrt(max(self.exact, 0.0) / self.length)

    def bias_squared(self, rescale: bool) -> float:
        """Return the squared norm of what m, scaled, is off."""
        factor = self.factor(rescale)
        return factor**2 * self.length - 2 * factor * self.along + self.exact

    @property
    def cosine(self) -> float:
        """Of m and g; NaN where one of them seems to be 0."""
        if self.length <= 0 or self.exact <= 0:
            return math.nan
        return self.along / (math.sqrt(self.length) * math.sqrt(self.exact))


def relative(squared_norm: float, gradient_squared: float) -> float:
    """Return a squared norm in units of the gradient's; NaN where that is 0."""
    return squared_norm / gradient_squared if gradient_squared > 0 else math.nan


def average(each: Sequence[Moments]) -> Moments:
    """Return the moments of several audits together."""
    names = ("length", "along", "exact", "variance")
    return Moments(*(fmean(getattr(one, name) for one in each) for name in names))


def relative_squared_bias(each: Sequence[Moments], rescale: bool) -> tuple[float, float]:
    """Return that of several audits together, and its standard error; NaN where g seems to be 0.

    The scale and the norm of g are ratios of averages, which have a bias where these are of few
    draws. The jackknife, which leaves out one audit at a time, takes it off and tells the error.
    """
    count, whole = len(each), average(each)
    ratio = relative(whole.bias_squared(rescale), whole.exact)
    if math.isnan(ratio):
        return ratio, ratio
    left = []
    for i in range(count):
        others = average([*each[:i], *each[i + 1 :]])
        norm = others.exact if others.exact > 0 else whole.exact
        left.append(others.bias_squared(rescale) / norm)
    middle = fmean(left)
    scatter = fmean((value - middle) ** 2 for value in left)
    return count * ratio - (count - 1) * middle, math.sqrt((count - 1) * scatter)
