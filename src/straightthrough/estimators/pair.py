"""What every rule for a pair of vectors shares: z, and the q that stands for it forward."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import ShapeError
from ..core.precision import compute_dtype, narrowed
from ..core.rules import Rule, Saved, check_like


class PairEstimator(Rule):
    """A backward rule for a vector z whose value is another one, q.

    A subclass writes `gradient`, the formula, and `tangent`, its transpose, for float32 or float64.
    Under `@saves(Saved.NOTHING)` neither looks at z and q.
    """

    saved: ClassVar[Saved] = Saved.INPUT
    """What backward has to know: z and q, unless `saves` says less of the formula."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.saved = getattr(cls.gradient, "saves", Saved.INPUT)

    @abstractmethod
    def gradient(self, z: Tensor, q: Tensor, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gradients to z and to q, None for none.

        Args:
            z: `(..., D)`, float32 or float64.
            q: the value, of that shape and dtype.
            grad: the gradient to the value, likewise.
        """

    @abstractmethod
    def tangent(self, z: Tensor, q: Tensor, to_z: Tensor, to_q: Tensor) -> Tensor:
        """Return the tangent of the value, of those of z and q."""

    def vjp(self, z: Tensor, q: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rule's gradients to z and to q, in their dtype.

        Args:
            z, q, grad: `(..., D)`, floating, of one shape.

        Raises:
            DtypeError, ShapeError, ArgumentError: for arguments other than these.

        Example:
            >>> one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
            >>> st.estimators.Rotation().vjp(one, other, torch.tensor([3.0, 4.0]))
            (tensor([ 8., -6.]), tensor([0., 0.]))
        """
        check_like("z", z, grad)
        check_like("q", q, grad)
        if z.ndim == 0:
            raise ShapeError("z, q and grad must be (..., D), got 0-d tensors")
        to_z, to_q = self.settled().backward(grad, z, q)
        return to_z, torch.zeros_like(q) if to_q is None else to_q

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what `vjp` does, of what was saved: z and q, or nothing; the dtypes may differ.

        Where q gets no gradient it is None, as that of a tensor that was detached: an optimizer
        then leaves a codebook alone, which with zeros it would decay.
        """
        of_z, of_q = (x.dtype for x in saved) if saved else (grad.dtype, grad.dtype)
        to_z, to_q = self._formula("gradient", saved, grad)
        return narrowed(to_z, of_z), to_q if to_q is None else narrowed(to_q, of_q)

    def forward(self, to_z: Tensor, to_q: Tensor, *saved: Tensor) -> Tensor:
        """Return the tangent of the value, where an operation's `jvp` is asked for."""
        return narrowed(self._formula("tangent", saved, to_z, to_q), to_z.dtype)

    def _formula(self, name: str, saved: Sequence[Tensor], *moving: Tensor) -> Any:
        """Call a formula in float32 or float64."""
        wide = compute_dtype(moving[0].dtype)
        z, q = saved or (moving[0], moving[0])  # where nothing is saved, neither is looked at
        formula = getattr(self.in_dtype(wide), name)
        return formula(*(x.to(wide) for x in (z, q, *moving)))


def factored(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a unit vector u, and r and s with `x = r s u`, of rows that are finite and not 0.

    The length `r s` of a row may be too large a number.
    """
    largest = x.detach().abs().amax(-1, keepdim=True)
    scaled = x / largest
    norm = scaled.square().sum(-1, keepdim=True).sqrt()
    return scaled / norm, largest, norm


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Return `<x, y>` of rows, a column."""
    return (x * y).sum(-1, keepdim=True)


def has_direction(x: Tensor) -> Tensor:
    """Say of rows whether they are finite and not 0, a column."""
    return x.isfinite().all(-1, keepdim=True) & (x != 0).any(-1, keepdim=True)
