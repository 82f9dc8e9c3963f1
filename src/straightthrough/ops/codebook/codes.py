"""Codes without a codebook: finite scalars, and signs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    NOT_A_NUMBER,
    ArgumentError,
    DtypeError,
    ShapeError,
    check_dense,
    check_outcomes,
    check_positive,
)
from ...core.outcomes import Code
from ...core.precision import compute_dtype
from ...core.registry import operator
from ...core.signature import Input
from . import specification
from .api import check_vectors
from .grid import SLOPES, Grid, digits_of
from .operation import FiniteScalars, Signs

_COMMON = {"family": "codebook", "inputs": (Input("z", "... D"),), "outcome": Code()}
_MOST = 2**63


def _check_levels(levels: int | Sequence[int], width: int | None) -> tuple[int, ...]:
    """Return the levels of each of `width` entries, at least 2 of them."""
    every = (levels,) * (width or 1) if isinstance(levels, int) else tuple(levels)
    if not every or any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in every):
        raise ArgumentError(f"levels must be ints of at least 2, got {levels!r}")
    if width is not None and len(every) != width:
        raise ShapeError(f"z must have D = {len(every)}, a number for each of levels, got {width}")
    _check_most(math.prod(every))
    return every


def _check_most(codes: int) -> None:
    if codes > _MOST:
        raise ArgumentError(f"there may be 2^63 codes at most, which int64 numbers; got {codes}")


def _check_index(index: Tensor, codes: int) -> None:
    if not isinstance(index, Tensor) or index.dtype != torch.int64:
        kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise DtypeError(f"index must be an int64 tensor, got {kind}; use index.long()")
    check_dense("index", index)
    if codes < _MOST and not torch.compiler.is_compiling() and bool((index >= codes).any()):
        raise ArgumentError(f"index must be below {codes}, got {int(index.max())}")


def _decoded(value: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.where((index < 0).unsqueeze(-1), torch.nan, value.to(dtype))


@operator(
    expected=specification.finite_scalars,
    gradient=specification.finite_scalars_gradient,
    saved_bytes=lambda rule, z: z.nbytes,
    arguments={"levels": 5},
    **_COMMON,
)
def fsq(
    z: Tensor, levels: int | Sequence[int], *, bound: str = "tanh", symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """Finite scalar quantization: the nearest of a few levels of each bounded entry.

    Forward: with `t = tanh(z + b)`, of L levels `code = round(h t - o) / floor(L / 2)`,
    `h = 1.001 (L - 1) / 2`, o = 1/2 for an even L, else 0, and `b = atanh(o / h)`; symmetric
    `code = 2 floor((L - 1)(tanh(z) + 1) / 2 + 1/2) / (L - 1) - 1`. Backward:
    `dL/dz = dL/dcode (1 - t^2) h / floor(L / 2)`, symmetric `dL/dcode (1 - t^2)`. With
    `bound="sigmoid"` `2 sigmoid(1.6 z) - 1 = tanh(0.8 z)` takes the place of tanh(z).

    Args:
        z: `(..., D)`, floating.
        levels: how many each entry has, at least 2: D ints, or one for all.
        bound: `"tanh"`, or `"sigmoid"`, which uses levels more evenly for a normal z.
        symmetric: whether the levels lie evenly about 0. For L = 2, else lopsided, it should be.

    Returns:
        The code, of the shape and dtype of `z`, from -1 to 1; and its number, int64 `(...)`, the
        sum of the levels from 0 on, each times the product of those before.

    Raises:
        DtypeError: if z is not floating.
        ShapeError: if D is not the number of levels.
        ArgumentError: if a number of levels is not an int of at least 2, there are more than 2^63
            codes, or the bound is unknown.

    Edge cases: a row that holds NaN gives a NaN row and the number -1 (in `st.strict()` an error);
    infinities are the outermost levels.

    Higher order: differentiates the derivative of the bound; forward mode works.

    Cost: a tanh and a few passes each way; z is saved. There is no table.

    Example:
        >>> code, number = st.fsq(torch.tensor([[0.1, -5.0, 2.0]]), [8, 5, 5])
        >>> code, number
        (tensor([[ 0., -1.,  1.]]), tensor([164]))
        >>> st.fsq_decode(number, [8, 5, 5])
        tensor([[ 0., -1.,  1.]])

    References:
        Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", 2023; symmetric levels:
        Parker et al., "Scaling transformers for low-bitrate high-quality speech coding", 2024.
    """
    check_vectors(z)
    if bound not in SLOPES:
        raise ArgumentError(f"bound must be 'tanh' or 'sigmoid', got {bound!r}")
    operation = FiniteScalars(_check_levels(levels, z.shape[-1]), SLOPES[bound], bool(symmetric))
    code, number = apply(operation, z)
    check_outcomes("fsq", lambda: number < 0, NOT_A_NUMBER)
    return code, number


def fsq_decode(
    index: Tensor,
    levels: Sequence[int],
    *,
    symmetric: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The code that `st.fsq` gave a number to.

    Value: entry d is the level `index // prod(levels[:d]) % levels[d]`, brought to -1 to 1.

    Args:
        index: int64, any shape.
        levels: those that `st.fsq` was given, an int for each entry.
        symmetric: as there.
        dtype: of the code.

    Returns:
        `(..., D)`, bit for bit what `st.fsq` returned in that dtype.

    Raises:
        DtypeError: if the index is not int64.
        ArgumentError: if there is no code of that number.

    Edge cases: -1 gives a NaN row.

    Higher order: there is no gradient.

    Cost: a few passes over the code; there is no table.

    Example:
        >>> st.fsq_decode(torch.tensor([0, 7]), [2, 4], symmetric=True)
        tensor([[-1., -1.],
                [ 1.,  1.]])
    """
    every = _check_levels(levels, None)
    _check_index(index, math.prod(every))
    wide = torch.empty((), dtype=compute_dtype(dtype), device=index.device)
    digits = digits_of(index.clamp(min=0), every).to(wide.dtype)
    return _decoded(Grid(every, 1.0, symmetric, wide).code(digits), index, dtype)


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

    Cost: a few passes forward; nothing is saved. There is no table.

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

    Cost: a few passes each way; z is saved. There is no table.

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
    _check_most(2 ** z.shape[-1])
    code, number = apply(Signs(sphere), z)
    check_outcomes(name, lambda: number < 0, NOT_A_NUMBER)
    return code, number


def lfq_decode(index: Tensor, bits: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """The signs that `st.lfq` gave a number to; over `sqrt(bits)` they are those of `st.bsq`.

    Value: entry d is 1 where bit d of the number is set, else -1.

    Args:
        index: int64, any shape.
        bits: D, from 1 to 63.
        dtype: of the code.

    Returns:
        `(..., bits)`, bit for bit what `st.lfq` returned in that dtype.

    Raises:
        DtypeError: if the index is not int64.
        ArgumentError: if `bits` is not from 1 to 63, or there is no code of that number.

    Edge cases: -1 gives a NaN row.

    Higher order: there is no gradient.

    Cost: a few passes over the code; there is no table.

    Example:
        >>> st.lfq_decode(torch.tensor([5]), 3)
        tensor([[ 1., -1.,  1.]])
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 63:
        raise ArgumentError(f"bits must be an int from 1 to 63, got {bits!r}")
    _check_index(index, 2**bits)
    digits = digits_of(index.clamp(min=0), (2,) * bits)
    return _decoded(2 * digits - 1, index, dtype)


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
        DtypeError: if z is not floating.
        ShapeError: if the mask does not have the shape of `z` without D.
        ArgumentError: if T is not above 0.

    Edge cases: NaN where no row counts.

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
    rows = z.to(compute_dtype(z.dtype))
    if mask is not None:
        if mask.shape != z.shape[:-1]:
            raise ShapeError(
                f"mask must have the shape {tuple(z.shape[:-1])}, got {tuple(mask.shape)}"
            )
        rows = rows[mask]
    logits = scale * rows.reshape(-1, z.shape[-1])
    each = F.softplus(logits) - logits * torch.sigmoid(logits)
    share = torch.stack([torch.sigmoid(logits).mean(0), torch.sigmoid(-logits).mean(0)])
    return each.sum(-1).mean(), torch.special.entr(share).sum()
