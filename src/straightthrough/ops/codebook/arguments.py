"""The arguments of codebook operators, checked: vectors, codebooks, and numbers of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import (
    ArgumentError,
    DtypeError,
    ShapeError,
    check_dense,
    check_floating,
    check_not_nested,
)
from ...core.internals import transforms_active
from ...core.mesh import on_mesh
from ...core.precision import in_dtype_of

MOST = 2**63
"""How many codes int64 has numbers for."""


def check_vectors(z: Tensor) -> torch.Size:
    """Return the shape of `z`, `(..., D)` of a floating dtype, D at least 1."""
    check_floating("z", z)
    try:
        shape = z.shape
    except RuntimeError:
        check_not_nested("z", z)
        raise
    if not shape or shape[-1] == 0:
        raise ShapeError(f"z must be (..., D) with D at least 1, got {tuple(shape)}")
    return shape


def check_codebook(z: Tensor, codebook: Tensor) -> Tensor:
    """Return the codebook in the dtype of `z`, which it fits."""
    check_vectors(z)
    codebook = in_dtype_of("z", z, "codebook", codebook)
    heads = codebook.shape[:-2]
    fitting = (*heads, z.shape[-1])
    if codebook.ndim < 2 or codebook.shape[-2] == 0 or codebook.shape[-1] != z.shape[-1]:
        fitting = ()
    if not fitting or z.shape[-len(fitting) :] != torch.Size(fitting):
        raise ShapeError(
            f"codebook must be (K, D) with K at least 1 and D that of z (..., D), or (*H, K, D) "
            f"for z (..., *H, D), got codebook {tuple(codebook.shape)} and z {tuple(z.shape)}"
        )
    if on_mesh(codebook) and heads:
        raise ArgumentError(
            f"as a DTensor a codebook must be (K, D), got {tuple(codebook.shape)}; call it for "
            f"each of the heads"
        )
    return codebook


def check_row_mask(z: Tensor, mask: Tensor | None) -> None:
    """Raise unless `mask` is None, or bool and of the shape of `z` without its last dimension."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise DtypeError(
            f"mask must be a bool tensor (True = a row that counts), got {kind}; use "
            f"torch.as_tensor(mask).bool()"
        )
    if mask.shape != z.shape[:-1]:
        raise ShapeError(f"mask must have the shape {tuple(z.shape[:-1])}, got {tuple(mask.shape)}")


def check_most(codes: int) -> None:
    """Raise unless int64 has a number for each of so many codes."""
    if codes > MOST:
        raise ArgumentError(f"there may be 2^63 codes at most, which int64 numbers; got {codes}")


def check_code_dtype(dtype: torch.dtype) -> None:
    """Raise unless codes can be of that dtype."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise DtypeError(f"dtype must be a floating one, such as torch.float32, got {dtype}")


def check_index(index: Tensor, codes: int) -> Tensor:
    """Raise unless `index` holds int64 numbers of so many codes, or -1 for none, and return it.

    In compiled code and transforms, which can't ask, numbers that are too large become -1.
    """
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise DtypeError(
            f"index must be an int64 tensor, got {kind}; use torch.as_tensor(index).long()"
        )
    check_dense("index", index)
    if torch.compiler.is_compiling() or transforms_active() or index.is_meta:
        return torch.where(index > codes - 1, -1, index)
    outside = (index < -1) | (index > codes - 1)
    if bool(outside.any()):
        raise ArgumentError(
            f"index must lie in [0, {codes}), or be -1 for none, got {int(index[outside][0])}"
        )
    return index
