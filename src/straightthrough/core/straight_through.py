"""`straight_through`: the value of one tensor with the gradient of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .engine import apply
from .errors import (
    QUANTIZED,
    STRIDED,
    DtypeError,
    ShapeError,
    check_dense,
    check_floating,
    check_not_nested,
)
from .operation import Operation
from .precision import copied


@dataclass
class Substitute(Operation):
    """The first input forward, in the dtype of the second; backward the second's gradient."""

    dims = ("...", "...")

    def forward(self, hard: Tensor, soft: Tensor) -> tuple[Tensor]:
        return (copied(hard, soft.dtype),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return ()

    def carrier(self, hard: Tensor, soft: Tensor) -> Tensor:
        return soft

    def fill(self, copy: Tensor, hard: Tensor, soft: Tensor) -> tuple[Tensor, ...]:
        if copy.stride() != hard.stride():
            return super().fill(copy, hard, soft)
        copy.copy_(hard)
        return ()

    def backward(self, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad

    def jvp(self, tangents: Sequence[Tensor | None]) -> Tensor | None:
        return tangents[1]


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the value of `hard`, bit for bit, with the gradient of `soft`.

    Forward: `y = hard`. Backward: `dL/dsoft = dL/dy`; `hard` gets no gradient.

    Args:
        hard: a tensor of any dtype that casts exactly to the dtype of `soft` (bool, small
            integers, narrower floats).
        soft: a floating tensor; its shape and that of `hard` broadcast.

    Returns:
        A new tensor in the dtype of `soft` and the broadcast shape.

    Raises:
        DtypeError: if `soft` is not floating, or `hard` would be rounded.
        ShapeError: if the shapes do not broadcast.
        ArgumentError: if one of them is sparse or nested.

    Edge cases: -0.0, infinities and NaN of `hard` come out as they are.

    Higher order: that of `soft`; forward mode works.

    Cost: one copy of `hard`; nothing is saved. `soft` is computed by the caller, in forward;
    `st.wrap` puts that off until backward.

    Example:
        >>> x = torch.tensor([0.2, -3.0], requires_grad=True)
        >>> y = st.straight_through(x.sign(), x.tanh())
        >>> y.sum().backward()
        >>> y.tolist(), torch.allclose(x.grad, 1 - x.detach().tanh() ** 2)
        ([1.0, -1.0], True)
    """
    check_floating("soft", soft)
    if not isinstance(hard, Tensor) or not _casts_exactly(hard.dtype, soft.dtype):
        if isinstance(hard, Tensor):
            check_dense("hard", hard)
        kind = hard.dtype if isinstance(hard, Tensor) else type(hard).__name__
        raise DtypeError(
            f"hard of {kind} does not cast exactly to soft's {soft.dtype}; "
            f"round it yourself with hard.to(soft.dtype) if that is meant"
        )
    if type(hard) is not Tensor or hard.layout is not STRIDED:
        check_dense("hard", hard)
    hard = hard.detach()  # of either mode's gradient
    try:
        if hard.shape != soft.shape:
            hard, soft = torch.broadcast_tensors(hard, soft)
    except RuntimeError:
        check_not_nested("hard or soft", hard, soft)
        raise ShapeError(
            f"hard and soft must broadcast, got shapes {tuple(hard.shape)} and {tuple(soft.shape)}"
        ) from None
    return apply(Substitute(), hard, soft)


def stop_gradient_as(value: Tensor, carrier: Tensor) -> Tensor:
    """Return `value` with the gradient of `carrier`, for use inside a rule's own backward.

    Where no second derivative can be asked for (any backward without `create_graph`) it is `value`
    as it is.
    """
    if not torch.is_grad_enabled():
        return value
    return straight_through(value, carrier)


def _casts_exactly(source: torch.dtype, target: torch.dtype) -> bool:
    if source in (target, torch.bool):
        return True
    if source.is_complex or source in QUANTIZED:
        return False
    wide = torch.finfo(target)
    if not source.is_floating_point:
        return torch.iinfo(source).max <= 2 / wide.eps and torch.iinfo(source).max <= wide.max
    narrow = torch.finfo(source)
    return (
        narrow.eps >= wide.eps
        and narrow.max <= wide.max
        and narrow.tiny * narrow.eps >= wide.tiny * wide.eps
    )
