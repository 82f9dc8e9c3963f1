"""Codebook operators: the nearest codeword, and the gradient past it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.engine import apply
from ...core.errors import (
    NO_CODEWORD,
    ArgumentError,
    Number,
    ShapeError,
    check_outcomes,
)
from ...core.outcomes import Codeword, Row
from ...core.precision import compute_dtype, in_dtype_of
from ...core.registry import operator, resolve
from ...core.rules import Saved
from ...core.signature import Input
from ...estimators import PairEstimator, PairSTE
from . import specification
from .arguments import check_codebook, check_vectors
from .operation import Codewords, Nearest, Quantize, Through
from .search import directions

_RULE = {
    "rule": "estimator",
    "fits": (PairEstimator,),
    "default": PairSTE(),
}


def _pair_bytes(rule: PairEstimator, z: Tensor, dtype: torch.dtype) -> int:
    return 0 if rule.saved is Saved.NOTHING else z.nbytes + z.numel() * dtype.itemsize


def nearest(z: Tensor, codebook: Tensor, *, metric: str = "euclidean") -> Tensor:
    """The number of the nearest codeword.

    Value: `argmin_k |z - c_k|`, or with `metric="cosine"` `argmax_k <z, c_k> / (|z| |c_k|)`, the
    first of equal ones. That is the smallest distance as float64 has it, whatever the dtype, and
    however far from 0 z and the codebook lie.

    Args:
        z: `(..., D)`, or `(..., *H, D)` where there is a codebook a head; floating.
        codebook: `(K, D)`, or `(*H, K, D)`, in the dtype of `z`; under `torch.autocast` it is cast
            to that.
        metric: `"euclidean"` or `"cosine"`.

    Returns:
        int64, the shape of `z` without D; no gradient.

    Raises:
        DtypeError: if they are not floating, or of two dtypes.
        ShapeError: if the codebook does not fit z, or is empty.
        ArgumentError: if the metric is unknown.

    Edge cases: a row with NaN or infinity gets -1 (in `st.strict()` an error), and so does, for the
    cosine, a row of zeros. A codeword like that is never chosen; where all are like that, every row
    gets -1.

    Higher order: there is no gradient.

    Cost: all distances in one pass of the CPU kernel, where the codebook has at most 64 codewords
    or 2^13 entries, or there are at most 2^22 differences. Else one matrix product of N x D x K in
    float32 (float64 for float64), at most 2^21 scores of which exist at once on the CPU; where two
    of them are as good as equal, the distances in float64. A codebook most of whose codewords are
    equal makes many of those.

    Example:
        >>> codebook = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        >>> st.nearest(torch.tensor([[0.1, 0.2], [3.0, 0.9]]), codebook)
        tensor([0, 1])
    """
    codebook = check_codebook(z, codebook)
    if metric not in ("euclidean", "cosine"):
        raise ArgumentError(f"metric must be 'euclidean' or 'cosine', got {metric!r}")
    z, codebook = z.detach(), codebook.detach()
    if metric == "cosine":
        z, codebook = directions(z), directions(codebook)
    index: Tensor = apply(Nearest(), z, codebook)
    check_outcomes("nearest", lambda: index < 0, NO_CODEWORD)
    return index


@operator(
    family="codebook",
    inputs=(Input("z", "... D"), Input("q", "... D")),
    outcome=Row(),
    expected=specification.through,
    gradient=specification.through_gradient,
    saved_bytes=lambda rule, z, q: _pair_bytes(rule, z, q.dtype),
    **_RULE,
)
def through(
    z: Tensor, q: Tensor, estimator: PairEstimator | str = "ste", **fields: Number
) -> Tensor:
    """The value of q in the place of z, with the gradient of a pair's rule to both.

    Forward: `y = q`. Backward: `dL/dz, dL/dq = estimator.vjp(z, q, dL/dy)`; where the rule has none
    for q (`"ste"`, `"rotation"`), its gradient stays None.

    Args:
        z: `(..., D)`, what q stands for; floating.
        q: of the shape and dtype of `z`; under `torch.autocast` it is cast to that.
        estimator: a `PairEstimator` or its shorthand: `"ste"`, `"rotation"`, `"diveq"`, `"both"`.
        fields: numbers for its fields, as `max_scale=10.0` beside `"rotation"`.

    Returns:
        A new tensor, q bit for bit.

    Raises:
        DtypeError: if they are not floating, or of two dtypes.
        ShapeError: if their shapes differ.
        ArgumentError: if the estimator or a field is unknown.

    Edge cases: NaN and infinities of q come out as they are. What each rule does where z or q is 0,
    or z = q, its own page says.

    Higher order: double backward differentiates the rule's formula; forward mode works.

    Cost: one copy of q. `"ste"` and `"both"` save nothing, the others z and q.

    Example:
        >>> z = torch.tensor([0.2, 0.9], requires_grad=True)
        >>> y = st.through(z, torch.tensor([0.0, 1.0]))
        >>> y.square().sum().backward()
        >>> y.tolist(), z.grad.tolist()
        ([0.0, 1.0], [0.0, 2.0])
    """
    rule = resolve("estimator", estimator, PairEstimator, fields=fields)
    shape = check_vectors(z)
    q = in_dtype_of("z", z, "q", q)
    if q.shape != shape:
        raise ShapeError(f"q must have the shape {tuple(shape)} of z, got {tuple(q.shape)}")
    y: Tensor = apply(Through(rule), z, q)
    return y


@operator(
    family="codebook",
    inputs=(Input("z", "... D"), Input("codebook", "K D")),
    outcome=Codeword(),
    expected=specification.nearest,
    gradient=specification.quantized_gradient,
    saved_bytes=lambda rule, z, codebook: (
        _pair_bytes(rule, z, compute_dtype(z.dtype)) + 8 * z.shape[:-1].numel()
    ),
    **_RULE,
)
def vector_quantize(
    z: Tensor, codebook: Tensor, estimator: PairEstimator | str = "ste", **fields: Number
) -> tuple[Tensor, Tensor]:
    """The nearest codeword and its number, with the gradient of a pair's rule.

    Forward: `q = codebook[x]`, `x = st.nearest(z, codebook)`. Backward: with
    `to_z, to_q = estimator.vjp(z, q, dL/dq)`, `dL/dz = to_z`, and each codeword gets the sum of
    `to_q` over the rows that chose it, in float32 for half precision. Where the rule has none for q
    (`"ste"`, `"rotation"`), the codebook's gradient stays None.

    Args:
        z: `(..., D)`, or `(..., *H, D)` where there is a codebook a head; floating.
        codebook: `(K, D)`, or `(*H, K, D)`, in the dtype of `z`; under `torch.autocast` it is cast
            to that. It may be any function of parameters, and be written to before backward.
        estimator: a `PairEstimator` or its shorthand: `"ste"`, `"rotation"`, `"diveq"`, `"both"`.
        fields: numbers for its fields, as `max_scale=10.0` beside `"rotation"`.

    Returns:
        The codewords, of the shape of `z`, bit for bit; and their numbers, int64, that shape
        without D.

    Raises:
        DtypeError: if they are not floating, or of two dtypes.
        ShapeError: if the codebook does not fit z, or is empty.
        ArgumentError: if the estimator or a field is unknown.

    Edge cases: a row with NaN or infinity, and any row where all codewords hold some, gives a NaN
    row and the number -1 (in `st.strict()` an error), and nothing to the codebook. Of equally near
    codewords it is the first.

    Higher order: double backward differentiates the rule's formula, the choice held; forward mode
    works.

    Cost: that of `st.nearest`, and a few passes over z. The numbers are saved, and z and the
    codewords for rules other than `"ste"` and `"both"`.

    Example:
        >>> codebook = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
        >>> z = torch.tensor([[0.1, 0.2], [3.0, 0.9]])
        >>> st.vector_quantize(z, codebook.detach())
        (tensor([[0., 0.],
                [1., 1.]]), tensor([0, 1]))
        >>> q, _ = st.vector_quantize(z, codebook, "both")
        >>> q.sum().backward()
        >>> codebook.grad
        tensor([[1., 1.],
                [1., 1.]])

    References:
        Van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", 2017.
    """
    rule = resolve("estimator", estimator, PairEstimator, fields=fields)
    codebook = check_codebook(z, codebook)
    if rule.saved is Saved.NOTHING and codebook.ndim == 2:
        y, index = apply(Quantize(rule, len(codebook), _named(codebook)), z, codebook)
    else:
        index = apply(Nearest(), z.detach(), codebook.detach())
        y = apply(Through(rule), z, codewords(codebook, index))
    check_outcomes("vector_quantize", lambda: index < 0, NO_CODEWORD)
    return y, index


def codewords(codebook: Tensor, index: Tensor) -> Tensor:
    """Return the codewords of those numbers, a NaN row for -1, differentiable in the codebook.

    They are in float32 for half precision, so that gradients to them are added up in it.
    `(K, D)` and `(...)` give `(..., D)`, `(*H, K, D)` and `(..., *H)` give `(..., *H, D)`.
    """
    table, codes = codebook.flatten(0, -2), codebook.shape[-2]
    if codebook.ndim > 2:
        heads = codebook.shape[:-2]
        start = torch.arange(heads.numel(), device=index.device).reshape(heads) * codes
        index = torch.where(index < 0, -1, index + start)
    value: Tensor = apply(Codewords(len(table), _named(table)), index, table)
    return value


def _named(table: Tensor) -> str:
    """Return the name of a dtype, as a field of an operation."""
    return str(table.dtype).removeprefix("torch.")
