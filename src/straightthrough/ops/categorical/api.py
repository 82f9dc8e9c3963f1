"""Categorical operators: a draw, an argmax, a lookup."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    DtypeError,
    Number,
    ShapeError,
    apply_mask,
    check_flag,
    check_outcomes,
    check_positive,
    check_rows,
)
from ...core.noise import Seed, make_seed
from ...core.outcomes import ClassNumber, OneHot, TableRow
from ...core.precision import in_dtype_of
from ...core.registry import operator, resolve
from ...core.rules import Rule
from ...core.signature import Input
from ...estimators import CategoricalEstimator, GumbelST, MVEInteger, ReinMax
from ...relaxations import Softmax
from . import specification
from .operation import Argmax, GumbelSoftmax, Lookup, NumberDraw, OneHotDraw


def _rows(name: str, logits: Tensor, dim: int, mask: Tensor | None) -> tuple[Tensor, int]:
    """Return the logits with their classes last and masked, and the dim they came from."""
    dim = check_rows(name, logits, dim)
    rows = apply_mask(name, logits, mask)
    return rows if dim == -1 else rows.movedim(dim, -1), dim


def check_table(logits: Tensor, classes: int, table: Tensor) -> Tensor:
    """Return a table of a row a class, in the dtype of the logits."""
    table = in_dtype_of("logits", logits, "table", table)
    if table.ndim != 2 or table.shape[0] != classes:
        raise ShapeError(
            f"table must be (C, D) with C = {classes} classes, got {tuple(table.shape)}"
        )
    return table


def check_holds_numbers(logits: Tensor, classes: int) -> None:
    """Raise `DtypeError` unless the logits' dtype has the number of every class exactly."""
    most = int(2 / torch.finfo(logits.dtype).eps)
    if classes - 1 > most:
        raise DtypeError(
            f"logits of {logits.dtype} hold the numbers of {most + 1} classes exactly, got "
            f"{classes}; use logits.float()"
        )


def _logits_and_index(rule: Rule, logits: Tensor) -> int:
    return logits.nbytes + 8 * logits.shape[:-1].numel() + 8 * rule.draws_noise


_LOGITS = Input("logits", "... C")
_COMMON = {"family": "categorical", "inputs": (_LOGITS,)}
_ESTIMATED = {"rule": "estimator", "fits": (CategoricalEstimator,), "forward_mode": False}


@operator(
    outcome=OneHot(),
    expected=specification.probabilities,
    gradient=specification.gradient,
    default=ReinMax(),
    saved_bytes=_logits_and_index,
    **_COMMON | _ESTIMATED,
)
def categorical(
    logits: Tensor,
    estimator: CategoricalEstimator | str = "reinmax",
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """A one-hot drawn from `softmax(logits)`, with an estimator's gradient.

    Forward: `y = one_hot(x)`, x drawn exactly from `softmax(logits)` along `dim`, by inverse CDF
    with one 53-bit uniform a row (by `DecoupledST` at its `tau_forward`). Backward:
    `dL/dlogits = estimator.vjp(logits, x, dL/dy)`.

    Args:
        logits: `(..., C)` unnormalised log-probabilities, C along `dim`; floating.
        estimator: a `CategoricalEstimator` or its shorthand, e.g. `"gumbel"`.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields, as `tau=0.5` beside `"gumbel"`.

    Returns:
        A tensor of the shape, dtype and device of `logits`, exactly one-hot along `dim`.

    Raises:
        DtypeError: if the logits are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if the estimator is unknown, or both `seed` and `generator` are given.

    Edge cases: a row with NaN or +infinity, or with all its classes at -infinity, gives a NaN
    row (in `st.strict()` an error). A class at -infinity is never drawn.

    Higher order: double backward differentiates the estimator's formula, the outcome and the
    noise held; forward mode raises.

    Cost: an exponential, a float64 prefix sum and a scatter; the logits and one index a row are
    saved, and the seed if the estimator draws noise. No noise a class is drawn before backward,
    and none at all by most estimators.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True)
        >>> z = st.categorical(logits, "reinmax", seed=1)
        >>> z.sum().item(), z.shape
        (1.0, torch.Size([1, 3]))
        >>> (z * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        >>> logits.grad.shape
        torch.Size([1, 3])

    References:
        Liu et al., "Bridging discrete and backpropagation", 2023 (the default estimator).
    """
    rule = resolve("estimator", estimator, CategoricalEstimator, fields=fields)
    rows, dim = _rows("logits", logits, dim, mask)
    value, place = make_seed(seed, generator, logits)
    y = apply(OneHotDraw(rule, place), rows, value)
    check_outcomes("categorical", lambda: y[..., 0].isnan())
    return y if dim == -1 else y.movedim(-1, dim)


@operator(
    outcome=ClassNumber(),
    expected=specification.probabilities,
    gradient=specification.number_gradient,
    default=MVEInteger(),
    saved_bytes=_logits_and_index,
    **_COMMON | _ESTIMATED,
)
def categorical_integer(
    logits: Tensor,
    estimator: CategoricalEstimator | str = "mve_integer",
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """The number of a class drawn from `softmax(logits)`, with an estimator's gradient.

    Forward: `y = x`, x in 0, ..., C - 1 drawn as by `st.categorical`. Backward:
    `dL/dlogits = estimator.vjp(logits, x, dL/dy (0, ..., C - 1))`. Value and gradient are those of
    `st.categorical(logits, estimator) @ (0, ..., C - 1)`, without the one-hot.

    Args:
        logits: `(..., C)` unnormalised log-probabilities, C along `dim`; floating.
        estimator: a `CategoricalEstimator` or its shorthand; `"mve_integer"` is made for this.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields, as `tau=0.5` beside `"gumbel"`.

    Returns:
        Whole numbers in the dtype and on the device of `logits`, of their shape without `dim`.

    Raises:
        DtypeError: if the logits are not floating, or too narrow to hold C - 1 exactly (float16
            holds up to 2048, bfloat16 up to 256), or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if the estimator is unknown, or both `seed` and `generator` are given.

    Edge cases: rows without an outcome give NaN, as in `st.categorical`.

    Higher order: as `st.categorical`.

    Cost: forward writes one number a row; backward is one pass more than the estimator's own. The
    logits and one index a row are saved, and the seed if the estimator draws noise.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0, 9.0], [9.0, 0.0, 0.0]], requires_grad=True)
        >>> y = st.categorical_integer(logits, seed=0)
        >>> y.detach()
        tensor([2., 0.])
        >>> ((y - 1) ** 2).sum().backward()

    References:
        Hooper, Shekhovtsov, "Generalized and optimal straight-through estimators", 2026.
    """
    rule = resolve("estimator", estimator, CategoricalEstimator, fields=fields)
    rows, _ = _rows("logits", logits, dim, mask)
    check_holds_numbers(logits, rows.shape[-1])
    value, place = make_seed(seed, generator, logits)
    y = apply(NumberDraw(rule, place), rows, value)
    check_outcomes("categorical_integer", lambda: y.isnan())
    return y


@operator(
    outcome=OneHot(),
    expected=specification.first_largest,
    gradient=specification.relaxation_gradient,
    default=Softmax(),
    saved_bytes=lambda rule, logits: logits.nbytes,
    **_COMMON,
)
def argmax(
    logits: Tensor, *, tau: float = 1.0, dim: int = -1, mask: Tensor | None = None
) -> Tensor:
    """The one-hot of the largest entry, with the gradient of `softmax(logits / tau)`.

    Forward: `y = one_hot(argmax(logits))`. Backward: `dL/dlogits = J(p) dL/dy / tau`,
    `p = softmax(logits / tau)`, `J(p) = diag(p) - p p^T`.

    Args:
        logits: `(..., C)` scores, C along `dim`; floating.
        tau: temperature of the backward, > 0.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.

    Returns:
        A tensor of the shape, dtype and device of `logits`, exactly one-hot along `dim`.

    Raises:
        DtypeError: if the logits are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if `tau` is not above 0.

    Edge cases: ties go to the lowest index; a row with NaN, or with all its classes at
    -infinity, gives a NaN row (in `st.strict()` an error); +infinity is the largest.

    Higher order: that of the softmax; forward mode works.

    Cost: an argmax and a scatter forward; a softmax backward; the logits are saved.

    Example:
        >>> st.argmax(torch.tensor([1.0, 3.0, 3.0]))
        tensor([0., 1., 0.])
    """
    relaxation = Softmax(check_positive("tau", tau))
    rows, dim = _rows("logits", logits, dim, mask)
    y = apply(Argmax(relaxation), rows)
    check_outcomes("argmax", lambda: y[..., 0].isnan())
    return y if dim == -1 else y.movedim(-1, dim)


@operator(
    outcome=OneHot(),
    expected=specification.probabilities,
    gradient=specification.gradient,
    default=GumbelST(),
    saved_bytes=_logits_and_index,
    arguments={"hard": True},
    forward_mode=False,
    **_COMMON,
)
def gumbel_softmax(
    logits: Tensor,
    tau: float = 1.0,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
) -> Tensor:
    """The Gumbel-softmax, a drop-in for `torch.nn.functional.gumbel_softmax`, argument by argument.

    Forward: `y = softmax((logits + G) / tau)`, G standard Gumbels; with `hard=True` the one-hot
    of its argmax, in law, drawn without G. Backward: that of the soft value, in both modes; with
    `hard=True` it is `st.categorical(logits, GumbelST(tau))`.

    Args:
        logits: `(..., C)` unnormalised log-probabilities, C along `dim`; floating.
        tau: temperature, > 0.
        hard: whether the value is one-hot, True or False; a number, which torch takes, is refused.
        eps: ignored, as torch ignores it; another than the default warns.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.

    Returns:
        A tensor of the shape, dtype and device of `logits`.

    Raises:
        DtypeError: if the logits are not floating or the mask is not bool.
        ShapeError: if `dim` or the mask's shape does not fit, or there is no class.
        ArgumentError: if `tau` is not above 0, `hard` is not True or False, or both `seed` and
            `generator` are given.

    Edge cases: rows without an outcome give NaN, as in `st.categorical`; the noise is never
    infinite, so neither mode makes a NaN of its own.

    Higher order: double backward works; with `hard=True` forward mode raises.

    Cost: hard, that of `st.categorical`, the Gumbels being made in backward; soft, a Gumbel a
    class and a softmax, of which the value alone is saved (in half precision the logits and the
    seed, and the Gumbels are made again).

    Example:
        >>> st.gumbel_softmax(torch.zeros(2, 3), tau=0.5, hard=True, seed=0).sum(-1)
        tensor([1., 1.])

    References:
        Jang, Gu, Poole, "Categorical reparameterization with Gumbel-softmax", 2017, eq. 2.
    """
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    tau = check_positive("tau", tau)
    if check_flag("hard", hard):
        rule = GumbelST(tau)
        return categorical(logits, rule, dim=dim, mask=mask, generator=generator, seed=seed)
    rows, dim = _rows("logits", logits, dim, mask)
    value, place = make_seed(seed, generator, logits)
    y = apply(GumbelSoftmax(tau, place), rows, value)
    check_outcomes("gumbel_softmax", lambda: y[..., 0].isnan())
    return y if dim == -1 else y.movedim(-1, dim)


@operator(
    family="categorical",
    inputs=(_LOGITS, Input("table", "C D")),
    outcome=TableRow(),
    expected=specification.probabilities_of_rows,
    gradient=specification.lookup_gradient,
    default=ReinMax(),
    saved_bytes=lambda rule, logits, table: _logits_and_index(rule, logits) + table.nbytes,
    **_ESTIMATED,
)
def categorical_lookup(
    logits: Tensor,
    table: Tensor,
    estimator: CategoricalEstimator | str = "reinmax",
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """The row of a table that a categorical draw names, with an estimator's gradient.

    Forward: `y = table[x]`, x drawn from `softmax(logits)`. Backward: `dL/dtable` gathers the
    gradients of each row's picks; `dL/dlogits = estimator.vjp(logits, x, dL/dy @ table^T)`.
    Value and gradients are those of `st.categorical(logits) @ table` under the same seed, computed
    in float32 for half precision.

    Args:
        logits: `(..., C)` unnormalised log-probabilities, C along `dim`; floating.
        table: `(C, D)`, in the logits' dtype; under `torch.autocast` it is cast to that, as the
            weight of a linear layer is, and gets its gradient in its own.
        estimator: a `CategoricalEstimator` or its shorthand, e.g. `"gumbel"`.
        dim: the dimension of the classes.
        mask: bool, broadcastable to the logits; True = allowed.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields, as `tau=0.5` beside `"gumbel"`.

    Returns:
        `(..., D)`: the logits' shape without `dim`, then D; rows of `table` bit for bit.

    Raises:
        DtypeError: if the logits are not floating, or the table has another dtype (under autocast:
            if one of the two is float64).
        ShapeError: if the table is not `(C, D)`, or `dim` or the mask does not fit.
        ArgumentError: if the estimator is unknown, or both `seed` and `generator` are given.

    Edge cases: rows without an outcome give NaN, as in `st.categorical`, and to the table nothing.

    Higher order: as `st.categorical`.

    Cost: forward writes no tensor of the logits' size beyond the draw's own; backward is one
    matrix product and the estimator, by blocks of rows, and writes the gradients alone. Logits,
    table and one index a row are saved, and the seed if the estimator draws noise.

    Example:
        >>> table = torch.arange(6.0).reshape(3, 2)
        >>> st.categorical_lookup(torch.tensor([0.0, 99.0, 0.0]), table, seed=0)
        tensor([2., 3.])
    """
    rule = resolve("estimator", estimator, CategoricalEstimator, fields=fields)
    rows, dim = _rows("logits", logits, dim, mask)
    table = check_table(logits, rows.shape[-1], table)
    value, place = make_seed(seed, generator, logits)
    y = apply(Lookup(rule, place), rows, table, value)
    check_outcomes("categorical_lookup", lambda: rows.softmax(-1)[..., 0].isnan())
    return y
