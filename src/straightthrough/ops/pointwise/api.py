"""Pointwise operators: sign, step, rounding, clamping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import ArgumentError, Number, check_at_least, check_floating, check_number
from ...core.outcomes import Elementwise
from ...core.registry import check_not_rule, operator, resolve
from ...core.rules import Derivative, Saved
from ...core.signature import Input
from ...surrogates import Clipped, Identity, Sigmoid
from . import reference, specification
from .operation import Pointwise


def _what_the_rule_needs(rule: Derivative, x: Tensor) -> int:
    bits = (x.numel() + 7) // 8
    # Two where there is a NaN, and on a GPU, which is not asked, as that would be waited for.
    window = bits if x.is_meta or (x.is_cpu and not x.isnan().any()) else 2 * bits
    return {Saved.NOTHING: 0, Saved.INPUT: x.nbytes, Saved.WINDOW: window}[rule.saved]


def check_bounds(min: object, max: object) -> tuple[Any, Any]:
    """Return the bounds of a range, min at most max."""
    low, high = check_number("min", min), check_number("max", max)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor) and low > high:
        raise ArgumentError(f"min must be at most max, got min={low} and max={high}")
    return low, high


def check_threshold(name: str, value: object) -> Any:
    """Return the number that the threshold of a step is."""
    if type(value) is not float and isinstance(value, Tensor):
        instead = f"take it off before, heaviside(x - {name})"
        if value.requires_grad:
            raise ArgumentError(f"{name} gets no gradient; pass {name}.detach(), or {instead}")
        if value.ndim:
            raise ArgumentError(
                f"{name} must be a number or a 0-d tensor of one, got {value.dtype} of shape "
                f"{tuple(value.shape)}; {instead}"
            )
    return check_number(name, value)


def _apply(
    x: Tensor,
    surrogate: Derivative | str,
    fields: Mapping[str, Number],
    hard: str,
    *arguments: float,
    centre: float = 0.0,
) -> Tensor:
    check_floating("x", x)
    rule = resolve("surrogate", surrogate, Derivative, fields=fields)
    return apply(Pointwise(hard, arguments, rule, centre), x)


_COMMON = {
    "family": "pointwise",
    "inputs": (Input("x"),),
    "outcome": Elementwise(),
    "rule": "surrogate",
    "fits": (Derivative,),
    "gradient": specification.gradient,
    "saved_bytes": _what_the_rule_needs,
}


@operator(expected=reference.sign, default=Clipped(), **_COMMON)
def sign(x: Tensor, surrogate: Derivative | str = "clipped", **fields: Number) -> Tensor:
    """The sign, +1 or -1, with a surrogate gradient.

    Forward: `y = +1 where x >= 0, -1 where x < 0`.
    Backward: `dL/dx = dL/dy surrogate.derivative(x)`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        surrogate: a `Derivative` or its shorthand, e.g. `"tanh"`.
        fields: numbers for its fields, as `slope=2.0` beside `"tanh"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if `x` is not floating.
        ArgumentError: if the surrogate or a field is unknown.

    Edge cases: 0 and -0.0 give +1; infinities their sign. NaN stays NaN, and its gradient is NaN
    too (with `Identity` that to the value).

    Higher order: differentiates the surrogate; forward mode works.

    Cost: one pass forward, one backward; one bit an element is saved for a window such as
    `Clipped` (two where `x` holds a NaN, in compiled code, and off the CPU), nothing for
    `Identity`, `x` for the other surrogates.

    Example:
        >>> x = torch.tensor([-2.0, -0.0, 0.5], requires_grad=True)
        >>> y = st.sign(x)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-1.0, 1.0, 1.0], [0.0, 1.0, 1.0])

    References:
        Hubara et al., "Binarized neural networks", 2016, eqs. 1 and 4.
    """
    return _apply(x, surrogate, fields, "sign")


@operator(
    expected=reference.heaviside,
    default=Sigmoid(),
    arguments={"threshold": 0.3},
    **_COMMON | {"gradient": specification.gradient_at_threshold},
)
def heaviside(
    x: Tensor, threshold: float = 0.0, surrogate: Derivative | str = "sigmoid", **fields: Number
) -> Tensor:
    """The step, 1 above a threshold and 0 elsewhere, with a surrogate gradient.

    Forward: `y = 1[x > threshold]`.
    Backward: `dL/dx = dL/dy surrogate.derivative(x - threshold)`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        threshold: where the step is, in units of `x`. One that learns, or is a tensor of several,
            is taken off before: `heaviside(x - threshold)`.
        surrogate: a `Derivative` or its shorthand; `"identity"` passes the gradient unchanged.
        fields: numbers for its fields, as `slope=2.0` beside `"tanh"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if `x` is not floating.
        ArgumentError: if the surrogate or a field is unknown or the threshold is not finite.

    Edge cases: `x == threshold` gives 0, and so does -infinity. NaN stays NaN, and its gradient is
    NaN too (with `Identity` that to the value).

    Higher order: differentiates the surrogate; forward mode works.

    Cost: one pass forward, one backward; one bit an element is saved for a window such as
    `Clipped` (two where `x` holds a NaN, in compiled code, and off the CPU), nothing for
    `Identity`, `x` for the other surrogates.

    Example:
        >>> st.heaviside(torch.tensor([0.2, 0.5, 0.7]), 0.5, surrogate="identity")
        tensor([0., 0., 1.])

    References:
        Neftci, Mostafa, Zenke, "Surrogate gradient learning in spiking neural networks", 2019.
    """
    check_not_rule("threshold", threshold, "surrogate")
    threshold = check_threshold("threshold", threshold)
    return _apply(x, surrogate, fields, "heaviside", threshold, centre=threshold)


@operator(expected=torch.round, default=Identity(), **_COMMON)
def round(x: Tensor, surrogate: Derivative | str = "identity", **fields: Number) -> Tensor:
    """Rounding to the nearest integer, half to even, with a surrogate gradient.

    Forward: `y = round(x)`. Backward: `dL/dx = dL/dy surrogate.derivative(x)`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        surrogate: a `Derivative` or its shorthand.
        fields: numbers for its fields, as `slope=2.0` beside `"tanh"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if `x` is not floating.
        ArgumentError: if the surrogate or a field is unknown.

    Edge cases: 0.5 gives 0 and 1.5 gives 2; -0.0, NaN and infinities stay what they are. The
    gradient at NaN is NaN (with `Identity` that to the value).

    Higher order: differentiates the surrogate; forward mode works.

    Cost: one pass forward; with `Identity` backward is free and nothing is saved.

    Example:
        >>> st.round(torch.tensor([0.5, 1.5, -0.7]))
        tensor([ 0.,  2., -1.])

    References:
        Bengio, Leonard, Courville, 2013, section 4.
    """
    return _apply(x, surrogate, fields, "round")


@operator(expected=torch.floor, default=Identity(), **_COMMON)
def floor(x: Tensor, surrogate: Derivative | str = "identity", **fields: Number) -> Tensor:
    """Rounding down, with a surrogate gradient.

    Forward: `y = floor(x)`. Backward: `dL/dx = dL/dy surrogate.derivative(x)`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        surrogate: a `Derivative` or its shorthand.
        fields: numbers for its fields, as `slope=2.0` beside `"tanh"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if `x` is not floating.
        ArgumentError: if the surrogate or a field is unknown.

    Edge cases: -0.0, NaN and infinities stay what they are. The gradient at NaN is NaN (with
    `Identity` that to the value).

    Higher order: differentiates the surrogate; forward mode works.

    Cost: one pass forward; with `Identity` backward is free and nothing is saved.

    Example:
        >>> st.floor(torch.tensor([0.5, -0.5]))
        tensor([ 0., -1.])
    """
    return _apply(x, surrogate, fields, "floor")


@operator(expected=torch.ceil, default=Identity(), **_COMMON)
def ceil(x: Tensor, surrogate: Derivative | str = "identity", **fields: Number) -> Tensor:
    """Rounding up, with a surrogate gradient.

    Forward: `y = ceil(x)`. Backward: `dL/dx = dL/dy surrogate.derivative(x)`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        surrogate: a `Derivative` or its shorthand.
        fields: numbers for its fields, as `slope=2.0` beside `"tanh"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if `x` is not floating.
        ArgumentError: if the surrogate or a field is unknown.

    Edge cases: inputs in (-1, 0) give -0.0; -0.0, NaN and infinities stay what they are. The
    gradient at NaN is NaN (with `Identity` that to the value).

    Higher order: differentiates the surrogate; forward mode works.

    Cost: one pass forward; with `Identity` backward is free and nothing is saved.

    Example:
        >>> st.ceil(torch.tensor([0.5, -0.5]))
        tensor([1., -0.])
    """
    return _apply(x, surrogate, fields, "ceil")


@operator(expected=torch.trunc, default=Identity(), **_COMMON)
def trunc(x: Tensor, surrogate: Derivative | str = "identity", **fields: Number) -> Tensor:
    """Rounding towards 0, with a surrogate gradient.

    Forward: `y = trunc(x)`. Backward: `dL/dx = dL/dy surrogate.derivative(x)`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        surrogate: a `Derivative` or its shorthand.
        fields: numbers for its fields, as `slope=2.0` beside `"tanh"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if `x` is not floating.
        ArgumentError: if the surrogate or a field is unknown.

    Edge cases: inputs in (-1, 0) give -0.0; -0.0, NaN and infinities stay what they are. The
    gradient at NaN is NaN (with `Identity` that to the value).

    Higher order: differentiates the surrogate; forward mode works.

    Cost: one pass forward; with `Identity` backward is free and nothing is saved.

    Example:
        >>> st.trunc(torch.tensor([1.5, -1.5]))
        tensor([ 1., -1.])
    """
    return _apply(x, surrogate, fields, "trunc")


@operator(expected=torch.clamp, default=Identity(), arguments={"min": -1.0, "max": 1.0}, **_COMMON)
def clamp(
    x: Tensor, min: float, max: float, surrogate: Derivative | str = "identity", **fields: Number
) -> Tensor:
    """Clamping to a range, with a gradient that does not die outside it.

    Forward: `y = clamp(x, min, max)`. Backward: `dL/dx = dL/dy surrogate.derivative(x)`. With
    the default `Identity` a saturated entry still learns; its own derivative, 1 inside and 0
    outside, is what `torch.clamp` has.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        min, max: the range, finite, min <= max.
        surrogate: a `Derivative` or its shorthand.
        fields: numbers for its fields, as `slope=2.0` beside `"tanh"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if `x` is not floating.
        ArgumentError: if the surrogate or a field is unknown, a bound is not finite, or min > max.

    Edge cases: infinities give the bounds, and a bound beyond the range of the dtype is infinite.
    NaN stays NaN, and its gradient is NaN too (with `Identity` that to the value).

    Higher order: differentiates the surrogate; forward mode works.

    Cost: one pass forward; with `Identity` backward is free and nothing is saved.

    Example:
        >>> x = torch.tensor([-3.0, 0.5], requires_grad=True)
        >>> y = st.clamp(x, -1, 1)
        >>> y.sum().backward()
        >>> y.tolist(), x.grad.tolist()
        ([-1.0, 0.5], [1.0, 1.0])
    """
    for name, bound in (("min", min), ("max", max)):
        check_not_rule(name, bound, "surrogate")
    min, max = check_bounds(min, max)
    return _apply(x, surrogate, fields, "clamp", min, max)


@operator(expected=reference.ternary, default=Clipped(), arguments={"threshold": 0.5}, **_COMMON)
def ternary(
    x: Tensor, threshold: float, surrogate: Derivative | str = "clipped", **fields: Number
) -> Tensor:
    """The sign with a dead zone, -1, 0 or +1, with a surrogate gradient.

    Forward: `y = sign(x) where |x| > threshold, else 0`.
    Backward: `dL/dx = dL/dy surrogate.derivative(x)`.

    Args:
        x: any shape; float16, bfloat16, float32 or float64.
        threshold: half of the dead zone, finite, >= 0, in units of `x`.
        surrogate: a `Derivative` or its shorthand.
        fields: numbers for its fields, as `slope=2.0` beside `"tanh"`.

    Returns:
        A tensor of the shape, dtype and device of `x`.

    Raises:
        DtypeError: if `x` is not floating.
        ArgumentError: if the surrogate or a field is unknown or the threshold is negative or not
            finite.

    Edge cases: `|x| == threshold` gives 0 (larq's code gives +-1 there, its formula 0); infinities
    their sign. NaN stays NaN, and its gradient is NaN too (with `Identity` that to the value).

    Higher order: differentiates the surrogate; forward mode works.

    Cost: one pass forward, one backward; one bit an element is saved for a window such as
    `Clipped` (two where `x` holds a NaN, in compiled code, and off the CPU), nothing for
    `Identity`, `x` for the other surrogates.

    Example:
        >>> st.ternary(torch.tensor([-2.0, 0.1, 0.7]), 0.5)
        tensor([-1.,  0.,  1.])

    References:
        Li, Zhang, Liu, "Ternary weight networks", 2016, eq. 3.
    """
    check_not_rule("threshold", threshold, "surrogate")
    threshold = check_at_least("threshold", threshold, 0)
    return _apply(x, surrogate, fields, "ternary", threshold)
