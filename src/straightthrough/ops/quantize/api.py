"""Quantization: the values of a grid, with a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    ArgumentError,
    check_floating,
    check_number,
    check_outcomes,
    check_positive,
)
from ...core.noise import Seed, make_seed
from ...core.outcomes import GridValue, Neighbour
from ...core.registry import operator, resolve
from ...core.rules import Saved
from ...core.signature import Input
from ...estimators import STE, GridEstimator
from ...estimators.ste import Through
from ...grids import Grid, Int
from ...surrogates import Identity
from . import specification
from .arguments import check_grid, laid, zero_as_tensor
from .operation import FakeQuantize, Shift, StochasticQuantize, StochasticRound

NO_VALUE = "a NaN, or its scale is not a finite number above 0"

_INPUTS = (Input("x"), Input("scale", "", positive=True, broadcasts=True))


@operator(
    family="quantize",
    inputs=_INPUTS,
    outcome=GridValue(),
    expected=specification.value,
    gradient=specification.gradient,
    rule="rule",
    fits=(GridEstimator, Identity),
    default=STE(),
    saved_bytes=lambda rule, x, scale: x.nbytes + scale.nbytes,
    arguments={"grid": Int(4)},
)
def fake_quantize(
    x: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int = 0,
    *,
    grid: Grid,
    rule: GridEstimator | Identity | str = "ste",
    offset: Tensor | float | None = None,
    **fields: Any,
) -> Tensor:
    """The nearest value of a grid that a scale lays, with a gradient to both.

    Forward: `y = s q`, `q` the value of the grid nearest to `v = x / s`. For integers of the range
    n to p and a zero point z that is `y = (clamp(round(x / s) + z, n, p) - z) s`; with an offset b,
    `y = s q + b` and `v = (x - b) / s`.
    Backward: the rule's. `STE`: `dL/dx = dL/dy` where the code is in the range, else 0;
    `dL/ds` the sum of `dL/dy (q - v)` in the range and of `dL/dy q` beyond it; `dL/db` that of
    `dL/dy` beyond it, and `dL/dz = -s` times that. `LSQ` and others say where they differ.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        scale: above 0, a number or a tensor that broadcasts to `x`, of its dtype or, beside half
            precision, float32. Elements that share an entry share a scale: one of a tensor is 0-d,
            one a channel `(C, 1)` or `(C, 1, 1, 1)`, one a token `(..., 1)`, and for blocks `x` is
            viewed as `(..., blocks, block)`.
        zero_point: the code of the value 0, for integers only: an int of the range, or a tensor
            that broadcasts to `x`, whose range is not looked at; one that is floating is rounded
            first, and gets a gradient.
        grid: one of `st.grids`.
        rule: a `GridEstimator` or its shorthand, or `Identity`, which is the gradient unchanged.
        offset: in units of `x`, a number or a tensor as the scale is; the value of code 0.
        fields: numbers for the rule's fields, as `delta=0.1` beside `"ewgs"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if a tensor has another dtype than it may have beside `x`.
        ShapeError: if a scale, zero point or offset does not broadcast to `x`, or the blocks of a
            grid do not divide its last dimension.
        ArgumentError: if the grid or the rule is unknown, a scale that is a number is not above 0,
            a zero point that is one is out of range or not whole, or any is beside an offset or
            not for integers.

    Edge cases: ties go to the even code; infinities to the ends, and a value beyond the range of
    the dtype to infinity. NaN stays NaN, and an element whose scale is NaN, infinite or not above
    0 is NaN (in `st.strict()` an error); its gradient is that of an element beyond the range, and
    it adds nothing to the others'. Half precision is computed in float32, and gradients of scales
    are summed in it.

    Higher order: differentiates the formulas, `q` held; forward mode works but for `EWGS`.

    Cost: one pass forward, one backward, by kernels for `Int`, `Ternary`, `Float`, `MX` and `NVFP4`
    where there is one scale a row of leading dimensions; above an offset, for the first two; on
    GPUs, of blocks that are powers of two. Where `x` alone gets a gradient, `Identity` saves
    nothing and a rule that passes it in the range and stops it beyond one bit an element; else `x`
    is saved.

    Example:
        >>> x = torch.tensor([-9.0, 0.3, 1.3], requires_grad=True)
        >>> y = st.fake_quantize(x, 0.5, grid=st.grids.Int(4))
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-4.0, 0.5, 1.5], [0.0, 1.0, 1.0])

    References:
        Jacob et al., "Quantization and training of neural networks for efficient
        integer-arithmetic-only inference", 2018, eq. 12; Esser et al., "Learned step size
        quantization", 2020.
    """
    check_floating("x", x)
    check_grid(grid)
    grid.check(x)
    resolved = _resolved(rule, fields)
    inputs = [x, laid("scale", scale, x, check_positive)]
    shift: Shift = ""
    moved = not (isinstance(zero_point, int | float | np.number) and zero_point == 0)
    if offset is not None:
        if moved:
            raise ArgumentError("zero_point and offset exclude each other; pass one of them")
        shift = "offset"
        inputs.append(laid("offset", offset, x, check_number))
    elif moved:
        shift = "zero_point"
        inputs.append(zero_as_tensor(zero_point, x, grid))
    y: Tensor = apply(FakeQuantize(grid, resolved, shift), *inputs)
    check_outcomes("fake_quantize", lambda: y.isnan(), NO_VALUE)
    return y


@operator(
    family="quantize",
    inputs=_INPUTS,
    outcome=GridValue(),
    expected=specification.mean,
    gradient=specification.gradient_of_draw,
    rule="rule",
    fits=(GridEstimator, Identity),
    default=STE(),
    saved_bytes=lambda rule, x, scale: x.nbytes + scale.nbytes + 8,
    arguments={"grid": Int(4)},
)
def stochastic_quantize(
    x: Tensor,
    scale: Tensor | float,
    *,
    grid: Grid,
    rule: GridEstimator | Identity | str = "ste",
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Any,
) -> Tensor:
    """One of the two values of a grid beside the input, drawn so that the mean is the input.

    Forward: `y = s q`, with q the value of the grid below `v = x / s` or, with the probability
    `(v - q) / width`, the one above. Backward: the rule's, as in `st.fake_quantize`, with the q
    that was drawn; what is in the range, and how far off, is said by the nearest value.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        scale: as in `st.fake_quantize`.
        grid: one of `st.grids`.
        rule: a `GridEstimator` or its shorthand, or `Identity`.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the rule's fields, as `delta=0.1` beside `"ewgs"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError, ShapeError: as `st.fake_quantize`.
        ArgumentError: as there, or if both `seed` and `generator` are given.

    Edge cases: a value of the grid stays what it is; beyond the ends it is the end. NaN stays NaN,
    and an element without a scale is NaN (in `st.strict()` an error).

    Higher order: differentiates the formulas, `q` held; forward mode works but for `EWGS`.

    Cost: one uniform an element, in one pass by the kernels that `st.fake_quantize` has. Where `x`
    alone gets a gradient one bit an element is saved, as there; else `x` and a seed, and the
    uniforms are made again in backward.

    Example:
        >>> x = torch.full((10_000,), 0.3)
        >>> y = st.stochastic_quantize(x, 1.0, grid=st.grids.Int(4), seed=0)
        >>> y.unique().tolist(), round(y.mean().item(), 1)
        ([0.0, 1.0], 0.3)

    References:
        Gupta et al., "Deep learning with limited numerical precision", 2015, section 3.1.
    """
    check_floating("x", x)
    check_grid(grid)
    grid.check(x)
    resolved = _resolved(rule, fields)
    scales = laid("scale", scale, x, check_positive)
    value, place = make_seed(seed, generator, x)
    y: Tensor = apply(StochasticQuantize(grid, resolved, "", place), x, scales, value)
    check_outcomes("stochastic_quantize", lambda: y.isnan(), NO_VALUE)
    return y


@operator(
    family="quantize",
    inputs=(Input("x"),),
    outcome=Neighbour(),
    expected=specification.fraction,
    gradient=lambda rule, x, y, grad, noise: (grad.double(),),
    default=Identity(),
    saved_bytes=lambda rule, x: 0,
)
def stochastic_round(
    x: Tensor,
    *,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
) -> Tensor:
    """One of the two whole numbers beside the input, drawn so that the mean is the input.

    Forward: `y = floor(x) + 1[u < x - floor(x)]`, u uniform. Backward: `dL/dx = dL/dy`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if `x` is not floating.
        ArgumentError: if both `seed` and `generator` are given.

    Edge cases: whole numbers, infinities and NaN stay what they are, in every dtype.

    Higher order: the second derivative is 0; forward mode works.

    Cost: one uniform an element, in one pass by a kernel; nothing is saved.

    Example:
        >>> y = st.stochastic_round(torch.full((10_000,), 2.25), seed=0)
        >>> y.unique().tolist(), round(y.mean().item(), 1)
        ([2.0, 3.0], 2.3)

    References:
        Gupta et al., "Deep learning with limited numerical precision", 2015, section 3.1.
    """
    check_floating("x", x)
    value, place = make_seed(seed, generator, x)
    y: Tensor = apply(StochasticRound(place), x, value)
    return y


def _resolved(rule: GridEstimator | Identity | str, fields: Mapping[str, Any]) -> GridEstimator:
    """Return the rule that is meant, of a form that knows grids."""
    found = resolve("rule", rule, GridEstimator, Identity, fields=fields)
    if not isinstance(found, Identity):
        return found
    if found.saved is not Saved.NOTHING:
        raise ArgumentError(
            f"rule must be a GridEstimator or Identity itself, got {found}, which has a derivative "
            f"of its own; write it as the gradient of a GridEstimator"
        )
    return Through()
