"""Codes of signs: lookup-free, and on the sphere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    NOT_A_NUMBER,
    ArgumentError,
    as_int,
    check_outcomes,
    check_positive,
)
from ...core.outcomes import Code
from ...core.precision import compute_dtype
from ...core.registry import operator
from ...core.signature import Input
from . import specification
from .arguments import (
    check_code_dtype,
    check_index,
    check_most,
    check_row_mask,
    check_vectors,
)
from .grid import decoded, digits_of
from .operation import Signs, size_of_signs

_COMMON = {"family": "codebook", "inputs": (Input("z", "... D"),), "outcome": Code()}


@operator(
    expected=specification.signs,
    gradient=specification.signs_gradient,
    saved_bytes=lambda rule, z: 0,
    **_COMMON,
)
def lfq(z: Tensor) -> tuple[Tensor, Tensor]:
    """Lookup-free quantization: the sign of each entry, and the number that they spell.

    Forward: `code = 1` where `z >= 0`, else -1. Backward: `dL/dz = dL/dcode`.

    Args:
        z: `(..., D)` with D at most 63, floating.

    Returns:
        The code, of the shape and dtype of `z`; and its number, int64 `(...)`, the sum of `2^d`
        over the entries of 1.

    Raises:
        DtypeError: if z is not floating.
        ShapeError: if it is 0-d or D is 0.
        ArgumentError: if D is above 63.

    Edge cases: a row that holds NaN gives a NaN row and the number -1 (in `st.strict()` an error).

    Higher order: the second derivative is 0; forward mode works.

    Cost: one pass forward by the CPU kernel; nothing is saved. There is no table.

    Example:
        >>> st.lfq(torch.tensor([[0.3, -2.0, 1.0]]))
        (tensor([[ 1., -1.,  1.]]), tensor([5]))

    References:
        Yu et al., "Language model beats diffusion: tokenizer is key to visual generation", 2023.
    """
    return _signs("lfq", z, sphere=False)


@operator(
    expected=specification.sphere,
    gradient=specification.sphere_gradient,
    saved_bytes=lambda rule, z: z.nbytes,
    **_COMMON,
)
def bsq(z: Tensor) -> tuple[Tensor, Tensor]:
    """Binary spherical quantization: the signs over the root of their number.

    Forward: `code = s / sqrt(D)`, s the signs as in `st.lfq`. Backward: that of `u = z / |z|`,
    `dL/dz = (g - u <u, g>) / |z|` with `g = dL/dcode`.

    Args:
        z: `(..., D)` with D at most 63, floating; not yet of length 1.

    Returns:
        The code, of the shape and dtype of `z`, of length 1; and its number, as `st.lfq` has it.

    Raises:
        DtypeError: if z is not floating.
        ShapeError: if it is 0-d or D is 0.
        ArgumentError: if D is above 63.

    Edge cases: a row that holds NaN gives a NaN row and the number -1 (in `st.strict()` an error).
    Where z is 0 or not finite its gradient is 0.

    Higher order: differentiates the normalisation; forward mode works.

    Cost: one pass each way by the CPU kernels; z is saved. There is no table.

    Example:
        >>> st.bsq(torch.tensor([[0.3, -2.0, 1.0, 0.5]]))
        (tensor([[ 0.5000, -0.5000,  0.5000,  0.5000]]), tensor([13]))

    References:
        Zhao, Xiong, Krähenbühl, "Image and video tokenization with binary spherical
        quantization", 2024.
    """
    return _signs("bsq", z, sphere=True)


def _signs(name: str, z: Tensor, *, sphere: bool) -> tuple[Tensor, Tensor]:
    check_vectors(z)
    check_most(2 ** z.shape[-1])
    code, number = apply(Signs(sphere), z)
    check_outcomes(name, lambda: number < 0, NOT_A_NUMBER)
    return code, number


def lfq_decode(index: Tensor, bits: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The signs that `st.lfq` gave a number to.

    Value: entry d is 1 where bit d of the number is set, else -1.

    Args:
        index: int64, any shape.
        bits: D, from 1 to 63.
        dtype: of the code.

    Returns:
        `(..., bits)`, bit for bit what `st.lfq` returned in that dtype.

    Raises:
        DtypeError: if the index is not int64, or the code's dtype not floating.
        ArgumentError: if `bits` is not from 1 to 63, or there is no code of that number.

    Edge cases: -1 gives a NaN row; in compiled code and transforms, which can't look at numbers, so
    does one of no code.

    Higher order: there is no gradient.

    Cost: a few passes over the code; there is no table.

    Example:
        >>> st.lfq_decode(torch.tensor([5]), 3)
        tensor([[ 1., -1.,  1.]])
    """
    return _decode(index, bits, dtype, sphere=False)


def bsq_decode(index: Tensor, bits: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The point of the sphere that `st.bsq` gave a number to.

    Value: entry d is `1 / sqrt(bits)` where bit d of the number is set, else `-1 / sqrt(bits)`.

    Args:
        index: int64, any shape.
        bits: D, from 1 to 63.
        dtype: of the code.

    Returns:
        `(..., bits)`, bit for bit what `st.bsq` returned in that dtype.

    Raises:
        DtypeError: if the index is not int64, or the code's dtype not floating.
        ArgumentError: if `bits` is not from 1 to 63, or there is no code of that number.

    Edge cases: -1 gives a NaN row; in compiled code and transforms, which can't look at numbers, so
    does one of no code.

    Higher order: there is no gradient.

    Cost: a few passes over the code; there is no table.

    Example:
        >>> st.bsq_decode(torch.tensor([13]), 4)
        tensor([[ 0.5000, -0.5000,  0.5000,  0.5000]])
    """
    return _decode(index, bits, dtype, sphere=True)


def _decode(index: Tensor, bits: int, dtype: torch.dtype, *, sphere: bool) -> Tensor:
    check_code_dtype(dtype)
    count = as_int(bits)
    if count is None or not 1 <= count <= 63:
        raise ArgumentError(f"bits must be an int from 1 to 63, got {bits!r}")
    bits = count
    index = check_index(index, 2**bits)
    digits = digits_of(index.clamp(min=0), 2 ** torch.arange(bits, device=index.device), 2)
    signs = 2 * digits.to(compute_dtype(dtype)) - 1
    return decoded(signs * size_of_signs(bits, sphere), index, dtype)


def lfq_entropy(
    z: Tensor, *, inverse_temperature: float = 1.0, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The entropies that the loss of lookup-free quantization weighs, by their factors.

    Value: with `p_n` the softmax of `2 T <z_n, c>` over all `2^D` codes c, the mean of `H(p_n)`
    over the rows, which is that of `sum_d h(sigmoid(4 T z_nd))`; and `sum_d h(mean_n ...)`, which
    is `H(mean_n p_n)` if its bits are independent, and else above it. In nats.

    Args:
        z: `(..., D)`, floating.
        inverse_temperature: T, > 0.
        mask: bool `(...)`, True where a row counts; all do by default.

    Returns:
        Both, 0-d, in float32 or float64; the loss is the first less a multiple of the second.

    Raises:
        DtypeError: if z is not floating, or the mask not bool.
        ShapeError: if the mask does not have the shape of `z` without D.
        ArgumentError: if T is not above 0.

    Edge cases: both are NaN where no row counts, or one that does holds NaN; where one holds an
    infinity, the first is NaN. Leave such rows out by `mask=`.

    Higher order: plain autograd.

    Cost: a few passes over z, whatever the number of codes.

    Example:
        >>> each, together = st.lfq_entropy(torch.tensor([[9.0, 0.0], [-9.0, 0.0]]))
        >>> torch.stack([each, together]) / torch.tensor(2.0).log()
        tensor([1., 2.])

    References:
        Yu et al., "Language model beats diffusion: tokenizer is key to visual generation", 2023.
    """
    check_vectors(z)
    scale = 4 * check_positive("inverse_temperature", inverse_temperature)
    check_row_mask(z, mask)
    rows = z.to(compute_dtype(z.dtype)).reshape(-1, z.shape[-1])
    weight: Tensor | None = None
    if mask is not None:
        counted = mask.reshape(-1, 1)
        rows = torch.where(counted, rows, 0)
        weight = counted.to(rows.dtype) / counted.sum()

    def mean(x: Tensor) -> Tensor:
        return x.mean(0) if weight is None else (weight * x).sum(0)

    logits = scale * rows
    each = F.softplus(logits) - logits * torch.sigmoid(logits)
    share = torch.stack([mean(torch.sigmoid(logits)), mean(torch.sigmoid(-logits))])
    share = torch.where(share == 0, 1, share)  # as little, without the infinite slope at 0
    return mean(each).sum(), torch.special.entr(share).sum()
