"""What every estimator of a categorical draw shares."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..core.bits import unpack
from ..core.errors import ArgumentError, DtypeError, ShapeError, check_floating, check_rows
from ..core.noise import NOISELESS, Noise, Seed, make_seed
from ..core.precision import compute_dtype, in_compute_dtype
from ..core.rules import Rule, without_graph

_Formula = TypeVar("_Formula", bound=Callable[..., Tensor])


def takes_half(formula: _Formula) -> _Formula:
    """Say of a `gradient` that it is a kernel's, which takes half precision and saved outcomes.

    It is a mark on the function, so that a subclass with a formula of its own has none.
    """
    formula.takes_half = True  # type: ignore[attr-defined]  # functions take any
    return formula


class CategoricalEstimator(Rule):
    """A backward rule for a categorical draw: a gradient to the logits, given the outcome.

    A subclass writes `gradient`, the formula, for float32 or float64 rows. A binary draw is the
    draw between logits 0 and `x`; `binary_gradient` may give its closed form.
    """

    @abstractmethod
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        """Return the gradient to `logits`.

        Args:
            logits: `(..., C)`, float32 or float64.
            index: the outcome, `(...)` int64 in [0, C).
            grad: the gradient to the one-hot, `(..., C)`, of the logits' dtype.
            noise: where the rule's own comes from, if its class says `draws_noise = True`; of any
                other rule asking it raises.
        """

    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        """Return the gradient to `x`, the logit of `outcome` (bool, its shape)."""
        finite = x.clamp(-1e30, 1e30)  # an infinite logit is certain, not NaN
        logits = torch.stack([torch.zeros_like(x), finite], -1)
        pair = torch.stack([torch.zeros_like(grad), grad], -1)
        return self.gradient(logits, outcome.long(), pair, noise)[..., 1]

    def vjp(
        self, logits: Tensor, index: Tensor, grad: Tensor, *, seed: int | Seed | None = None
    ) -> Tensor:
        """Return the rule's gradient to `logits`, in their dtype.

        Args:
            logits: `(..., C)`, floating.
            index: the outcome, `(...)` int64 in [0, C).
            grad: the gradient to the one-hot, `(..., C)`.
            seed: only where the rule draws noise; a fresh one by default.

        Raises:
            DtypeError, ShapeError, ArgumentError: for arguments other than these.

        Example:
            >>> rule = st.estimators.StraightThrough()
            >>> rule.vjp(torch.zeros(2), torch.tensor(0), torch.tensor([1.0, 0.0]))
            tensor([ 0.2500, -0.2500])
        """
        check_floating("logits", logits)
        check_floating("grad", grad)
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise DtypeError(
                f"index must be an int64 tensor, got {kind}; use torch.as_tensor(index).long()"
            )
        if logits.ndim == 0 or logits.shape != grad.shape or index.shape != logits.shape[:-1]:
            raise ShapeError(
                f"logits and grad must be (..., C) and index (...), got logits "
                f"{tuple(logits.shape)}, index {tuple(index.shape)}, grad {tuple(grad.shape)}"
            )
        check_rows("logits", logits, -1)
        classes = logits.shape[-1]
        outside = index[(index < 0) | (index >= classes)]
        if len(outside):
            raise ArgumentError(f"index must lie in [0, {classes - 1}], got {int(outside[0])}")
        rule, noise = self.settled(), NOISELESS
        if self.draws_noise:
            value, place = make_seed(seed, None, logits)
            noise = Noise(value, *place)
        return without_graph(rule.backward, logits, index, grad, noise)

    def backward(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        """Return `gradient` in the logits' dtype, half precision computed in float32.

        An index of -1 marks a row without an outcome, whose gradient its logits make NaN.
        """
        gradient = self.gradient
        if logits.dtype == grad.dtype and getattr(gradient, "takes_half", False):
            return gradient(logits, index, grad, noise)
        rule = self.in_dtype(compute_dtype(logits.dtype))
        return given_outcome(rule.gradient, logits, index, grad, noise)

    def binary_backward(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        """Return `binary_gradient` in the dtype of `x`, half precision computed in float32.

        The outcome is bool or its bits, which kernels take as they are.
        """
        gradient = binary_formula(type(self))
        if x.dtype == grad.dtype and getattr(gradient, "takes_half", False):
            return gradient(self, x, outcome, grad, noise)
        rule = self.in_dtype(compute_dtype(x.dtype))
        return given_outcome(functools.partial(gradient, rule), x, outcome, grad, noise)


@functools.cache
def binary_formula(estimator: type[CategoricalEstimator]) -> Callable[..., Tensor]:
    """Return `binary_gradient`, unless a subclass has since written a `gradient` of its own."""
    order = estimator.__mro__
    closed, general = (
        next(base for base in order if name in vars(base))
        for name in ("binary_gradient", "gradient")
    )
    outdated = order.index(general) < order.index(closed)
    return CategoricalEstimator.binary_gradient if outdated else estimator.binary_gradient


def given_outcome(
    gradient: Callable[..., Tensor], x: Tensor, outcome: Tensor, *rest: Any
) -> Tensor:
    """Call a formula for float32 or float64 with an outcome as it is saved.

    That is -1 where a row has none, and bits where it is binary.
    """
    rows = outcome.dtype == torch.int64
    outcome = outcome.clamp(min=0) if rows else unpack(outcome, x.shape)
    return in_compute_dtype(gradient, x, outcome, *rest)


def reference(gradient: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a formula take what its kernel does: half precision, and outcomes as they are saved."""
    return functools.wraps(gradient)(functools.partial(given_outcome, gradient))


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """Return the one-hot of `index` in the shape and dtype of `like`."""
    return torch.zeros_like(like).scatter(-1, index.unsqueeze(-1), 1)
