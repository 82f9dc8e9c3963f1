"""What every estimator of a drawn subset shares."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..core.bits import unpack
from ..core.errors import ArgumentError, ShapeError, check_floating, check_rows
from ..core.precision import compute_dtype, in_compute_dtype
from ..core.rules import Rule, check_like, without_graph


class SubsetEstimator(Rule):
    """A backward rule for k of n, drawn from `p(z) ~ exp(<z, logits>)`, given the outcome.

    A subclass writes `gradient`, the formula, for float32 or float64 rows.
    """

    @abstractmethod
    def gradient(self, logits: Tensor, k: int, value: Tensor, grad: Tensor) -> Tensor:
        """Return the gradient to `logits`.

        Args:
            logits: `(..., C)`, float32 or float64.
            k: how many are chosen.
            value: the outcome, a k-hot of the logits' shape and dtype.
            grad: the gradient to it, likewise.
        """

    def vjp(self, logits: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        """Return the rule's gradient to `logits`, in their dtype.

        Args:
            logits: `(..., C)`, floating.
            value: the outcome, a k-hot of that shape, the same k in all rows.
            grad: the gradient to it, of that shape.

        Raises:
            DtypeError, ShapeError, ArgumentError: for arguments other than these.

        Example:
            >>> rule = st.estimators.Simple()
            >>> rule.vjp(torch.zeros(3), torch.tensor([1.0, 1.0, 0.0]), torch.tensor([9.0, 0, 0]))
            tensor([ 2., -1., -1.])
        """
        check_rows("logits", logits, -1)
        check_like("logits", logits, grad)
        k = count_of(logits, value)
        return without_graph(self.settled().backward, logits, k, value > 0, grad)

    def backward(self, logits: Tensor, k: int, chosen: Tensor, grad: Tensor) -> Tensor:
        """Return `gradient` in the logits' dtype; the outcome is bool, or its bits."""
        rule = self.in_dtype(compute_dtype(logits.dtype))

        def formula(logits: Tensor, grad: Tensor) -> Tensor:
            value = unpack(chosen, logits.shape).to(logits.dtype)
            return rule.gradient(logits, k, value, grad)

        return in_compute_dtype(formula, logits, grad)


def count_of(logits: Tensor, value: Tensor) -> int:
    """Return the k of a k-hot, or raise unless it is one of the logits' shape."""
    check_floating("value", value)
    if value.shape != logits.shape:
        raise ShapeError(
            f"value must have the shape {tuple(logits.shape)} of logits, got {tuple(value.shape)}"
        )
    if not ((value == 0) | (value == 1)).all():
        raise ArgumentError("value must hold 0 and 1 alone; pass what st.sample_subset returns")
    counts = value.detach().sum(-1, dtype=torch.int64).unique().tolist()
    if len(counts) > 1 or 0 in counts:
        raise ArgumentError(
            f"value must have the same number of ones in every row, at least one, got {counts}; "
            f"call once for each number"
        )
    return counts[0] if counts else 1
