"""Codes without a codebook: finite scalars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    NOT_A_NUMBER,
    ArgumentError,
    ShapeError,
    as_int,
    check_flag,
    check_outcomes,
)
from ...core.outcomes import Code
from ...core.precision import compute_dtype
from ...core.registry import operator
from ...core.signature import Input
from . import specification
from .arguments import check_code_dtype, check_index, check_most, check_vectors
from .grid import SLOPES, Grid, decoded, digits_of, places_of
from .operation import FiniteScalars

_COMMON = {"family": "codebook", "inputs": (Input("z", "... D"),), "outcome": Code()}


def check_levels(
    levels: int | Sequence[int], width: int | None, dtype: torch.dtype = torch.float64
) -> tuple[int, ...]:
    """Return the levels of each of `width` entries, at least 2, that a dtype tells apart.

    Without a width `levels` says how many entries there are, and can't be one int for all.
    """
    if width is None and not isinstance(levels, Iterable):
        raise ArgumentError(
            f"levels must be a sequence, an int for each entry, as [5, 5, 5], got {levels!r}"
        )
    given = levels if isinstance(levels, Iterable) else (levels,) * (width or 1)
    numbers = [*map(as_int, given)]
    every = tuple(n for n in numbers if n is not None and n >= 2)
    if not every or len(every) < len(numbers):
        raise ArgumentError(f"levels must be ints of at least 2, got {levels!r}")
    wide = compute_dtype(dtype)
    most = int(2 / torch.finfo(wide).eps)
    if max(every) > most:
        raise ArgumentError(f"levels must be at most {most} in {wide}, got {levels!r}")
    if width is not None and len(every) != width:
        raise ShapeError(f"z must have D = {len(every)}, a number for each of levels, got {width}")
    check_most(math.prod(every))
    return every


def check_bound(bound: object) -> None:
    """Raise unless there is a bound of that name."""
    if bound not in tuple(SLOPES):
        raise ArgumentError(f"bound must be 'tanh' or 'sigmoid', got {bound!r}")


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
    `dL/dz = dL/dcode (1 - t^2) h / floor(L / 2)`, symmetric
    `dL/dcode (1 - tanh(z)^2)`. With `bound="sigmoid"` 0.8 z takes the place of z, as
    `2 sigmoid(1.6 z) - 1 = tanh(0.8 z)`, and `dL/dz` has the factor 0.8 too.

    Args:
        z: `(..., D)`, floating.
        levels: how many each entry has, at least 2: D ints, or one for all; at most `2^24`, which
            float32 tells apart, or for float64 `2^53`.
        bound: `"tanh"`, or `"sigmoid"`, which uses levels more evenly for a normal z.
        symmetric: whether the levels lie evenly about 0. For L = 2, else lopsided, it should be.

    Returns:
        The code, of the shape and dtype of `z`, from -1 to 1; and its number, int64 `(...)`, the
        sum of the levels from 0 on, each times the product of those before.

    Raises:
        DtypeError: if z is not floating.
        ShapeError: if D is not the number of levels.
        ArgumentError: if a number of levels is not an int of at least 2 or is too large, there are
            more than 2^63 codes, or the bound is unknown.

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
    check_bound(bound)
    symmetric = check_flag("symmetric", symmetric)
    operation = FiniteScalars(check_levels(levels, z.shape[-1], z.dtype), bound, symmetric)
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
        index: int64, any shape; -1 where there is no code.
        levels: those that `st.fsq` was given, an int for each entry.
        symmetric: as there.
        dtype: of the code.

    Returns:
        `(..., D)`, bit for bit what `st.fsq` returned in that dtype.

    Raises:
        DtypeError: if the index is not int64, or the code's dtype not floating.
        ArgumentError: if there is no code of that number, or `levels` is one int.

    Edge cases: -1 gives a NaN row; in compiled code and transforms, which can't look at numbers, so
    does one of no code.

    Higher order: there is no gradient.

    Cost: a few passes over the code; there is no table.

    Example:
        >>> st.fsq_decode(torch.tensor([0, 7]), [2, 4], symmetric=True)
        tensor([[-1., -1.],
                [ 1.,  1.]])
    """
    check_code_dtype(dtype)
    every = check_levels(levels, None, dtype)
    index = check_index(index, math.prod(every))
    symmetric = check_flag("symmetric", symmetric)
    number = torch.tensor(every, device=index.device)
    places = places_of(every, index.device)
    digits = digits_of(index.clamp(min=0), places, number).to(compute_dtype(dtype))
    return decoded(Grid(number, 1.0, symmetric, digits).code(digits), index, dtype)
