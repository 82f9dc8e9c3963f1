"""What modules of codes return, and the losses between vectors and their codewords."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import ShapeError, check_floating
from ..core.internals import in_files
from ..core.precision import compute_dtype
from ..ops.codebook.arguments import check_row_mask, check_vectors
from .base import detached


@in_files
class Quantized(NamedTuple):
    """What a module of codes returns.

    The codes, of the shape and dtype of the input; their numbers, int64, -1 where a row is masked
    or not finite; and a loss, 0-d, to be added to that of the task.
    """

    quantized: Tensor
    index: Tensor  # type: ignore[assignment]  # tuples have a method of that name
    loss: Tensor


def commitment(z: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean over rows and entries of `(z - q)^2`, q held: it pulls z to its codeword.

    Args:
        z, q: `(..., D)`, floating, of one shape.
        mask: bool `(...)`, True where a row counts.

    Raises:
        DtypeError, ShapeError: for arguments other than these.

    Example:
        >>> z, q = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[1.0, 4.0]])
        >>> loss = st.nn.commitment(z, q)
        >>> loss.backward()
        >>> loss.item(), z.grad.tolist()
        (2.0, [[0.0, -2.0]])
    """
    _check_pair(z, q, mask)
    return _distance(z, detached(q), mask)


def codebook_loss(z: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean over rows and entries of `(z - q)^2`, z held: it pulls the codeword to z.

    Args:
        z, q: `(..., D)`, floating, of one shape.
        mask: bool `(...)`, True where a row counts.

    Raises:
        DtypeError, ShapeError: for arguments other than these.

    Example:
        >>> z, q = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 4.0]], requires_grad=True)
        >>> st.nn.codebook_loss(z, q).backward()
        >>> q.grad
        tensor([[1., 2.]])
    """
    _check_pair(z, q, mask)
    return _distance(detached(z), q, mask)


def _check_pair(z: Tensor, q: Tensor, mask: Tensor | None) -> None:
    check_vectors(z)
    check_floating("q", q)
    if q.shape != z.shape:
        raise ShapeError(f"q must have the shape {tuple(z.shape)} of z, got {tuple(q.shape)}")
    check_row_mask(z, mask)


def _distance(z: Tensor, q: Tensor, mask: Tensor | None) -> Tensor:
    wide = compute_dtype(z.dtype)
    square = (unmasked(z, mask).to(wide) - unmasked(q, mask).to(wide)).square()
    if mask is None:
        return square.mean()
    return square.sum() / (mask.sum() * z.shape[-1]).clamp(min=1)


def unmasked(z: Tensor, mask: Tensor | None) -> Tensor:
    """Return z, 0 where the mask is False: what is there may be anything."""
    return z if mask is None else torch.where(mask.unsqueeze(-1), z, 0)
