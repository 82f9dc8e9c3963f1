"""What every estimator of a count shares."""

from __future__ import annotations

import math
from abc import abstractmethod

from torch import Tensor

from ..core.errors import ArgumentError, DtypeError, ShapeError, check_floating
from ..core.precision import compute_dtype, in_compute_dtype
from ..core.rules import Rule


class CountEstimator(Rule):
    """A backward rule for a count: a gradient to its mean, given the outcome.

    A subclass writes `gradient`, the formula, for float32 or float64.
    """

    @abstractmethod
    def gradient(
        self, mean: Tensor, dispersion: Tensor, size: float, count: Tensor, grad: Tensor
    ) -> Tensor:
        """Return the gradient to the mean.

        Args:
            mean: of the count, float32 or float64.
            dispersion: `1 + mean / size`, which the caller may know to more digits.
            size: infinite for Poisson, `-total_count` or `total_count` for the others.
            count: the outcome, in the dtype and shape of the mean.
            grad: the gradient to the count, likewise.
        """

    def vjp(self, mean: Tensor, count: Tensor, grad: Tensor, *, size: float = math.inf) -> Tensor:
        """Return the rule's gradient to the mean of a count, in its dtype.

        Args:
            mean: any shape, floating, at least 0.
            count: the outcome, of that shape, a whole number of at least 0.
            grad: the gradient to it, of that shape, floating.
            size: infinite for Poisson, `-total_count` for binomial counts, `total_count` for
                negative binomial ones, 1 for geometric ones; not 0.

        Raises:
            DtypeError, ShapeError, ArgumentError: for arguments other than these.

        Example:
            >>> rule = st.estimators.Fini(order=3)
            >>> rule.vjp(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(12.0))
            tensor(19.)
        """
        check_floating("mean", mean)
        check_floating("grad", grad)
        if not isinstance(count, Tensor):
            raise DtypeError(
                f"count must be a tensor, got {type(count).__name__}; wrap it in torch.tensor(...)"
            )
        if count.is_complex():
            raise DtypeError(f"count must be whole numbers, got {count.dtype}; use count.real")
        if not mean.shape == count.shape == grad.shape:
            raise ShapeError(
                f"mean, count and grad must have one shape, got {tuple(mean.shape)}, "
                f"{tuple(count.shape)} and {tuple(grad.shape)}"
            )
        if (
            isinstance(size, bool)
            or not isinstance(size, int | float)
            or math.isnan(size)
            or size == 0
        ):
            raise ArgumentError(f"size must be a number other than 0, got {size!r}")
        if (mean < 0).any():
            raise ArgumentError(f"mean must be at least 0, got {float(mean[mean < 0][0])}")
        wide = compute_dtype(mean.dtype)
        count = count.to(wide)
        wrong = count[(count < 0) | (count != count.floor())]
        if len(wrong):
            raise ArgumentError(
                f"count must be a whole number of at least 0, got {float(wrong[0])}"
            )

        def formula(mean: Tensor, count: Tensor, grad: Tensor) -> Tensor:
            return self.gradient(mean, 1 + mean / size, size, count, grad)

        return in_compute_dtype(formula, mean, count, grad)
