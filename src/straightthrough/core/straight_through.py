"""The engine: one autograd.Function that joins a hard forward to any backward rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._functorch import eager_transforms
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from .errors import DtypeError, ShapeError, StraightThroughError, check_floating


class Operation(ABC):
    """A hard forward and its backward, side by side; every room has one or a few.

    Subclasses are frozen dataclasses, so that an operation is a hashable constant to
    `torch.compile`. Tensors travel as inputs, never as fields.
    """

    @abstractmethod
    def forward(self, *inputs: Any, **_: Any) -> tuple[Tensor, ...]:
        """Return the hard value, then what backward needs of the outcome (the residuals)."""

    def keep(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Choose what is saved for backward: inputs and residuals unless the rule needs others."""
        return (*inputs, *outputs[1:])

    def record(self, *inputs: Any, **_: Any) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
        """Return what `forward` does, and of it what `keep` does; a kernel may do both at once."""
        outputs = self.forward(*inputs)
        return outputs, self.keep(inputs, outputs)

    @abstractmethod
    def backward(self, grad: Tensor, *kept: Any, **_: Any) -> tuple[Tensor | None, ...]:
        """Return one gradient an input, out of differentiable operations."""

    def jvp(self, tangents: Sequence[Any], *kept: Any, **_: Any) -> Tensor | None:
        """Return the tangent of the value; sampling rules have none."""
        raise StraightThroughError(
            f"{self} has no forward-mode derivative: its rule defines a gradient only. "
            f"Use reverse mode (torch.func.vjp, grad, jacrev)"
        )


def apply(operation: Operation, *inputs: Tensor) -> Tensor:
    """Return the value of `operation`, with its backward."""
    # Three forms of one Function: Dynamo refuses one that defines jvp; functorch and forward mode
    # want setup_context, for which torch inspects the signature at each call (30 us).
    if is_compiling():
        return _traced(operation, inputs)
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return _Transformed.apply(operation, *inputs)[0]
    if not torch.is_grad_enabled():
        return operation.forward(*inputs)[0]
    alive = [*map(_unwrap_if_dead, inputs)]
    for tensor in alive:
        if tensor.requires_grad:
            return _apply_eager(operation, *alive)
    with torch.no_grad():
        return operation.forward(*alive)[0]


# What a functorch transform's wrapper holds, if the tensor has outlived the transform.
_unwrap_if_dead = torch._C._functorch.unwrap_if_dead


def _traced(operation: Operation, inputs: Sequence[Tensor]) -> Tensor:
    if torch._C._are_functorch_transforms_active():
        _refuse_forward_mode()
        _refuse_vmap()
        # Dynamo knows that a transform wants a gradient of the results of operations only.
        inputs = [tensor.view_as(tensor) for tensor in inputs]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Traced.apply(operation, *inputs)[0]
    # Where nothing is due, Dynamo would miscount a Function's arguments.
    return operation.forward(*inputs)[0]


def _refuse_forward_mode() -> None:
    if _forward_mode():
        raise StraightThroughError(
            "torch.func.jvp and jacfwd do not work inside torch.compile: Dynamo would give zeros. "
            "Compile what is inside them, or use reverse mode (torch.func.vjp, grad, jacrev)"
        )


def _refuse_vmap() -> None:
    if torch.is_grad_enabled() and _vmapped():
        raise StraightThroughError(
            "torch.vmap inside torch.compile loses the gradients of an operator: Dynamo does not "
            "show it what requires them. Put the compile inside the vmap, write the batch "
            "dimension out, or use torch.no_grad() where only values are wanted"
        )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # as torch has it
def _vmapped() -> bool:
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # as torch has it
def _forward_mode() -> bool:
    return eager_transforms.JVP_NESTING > 0


class _Traced(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(operation: Operation, *inputs: Tensor) -> tuple[Tensor, ...]:
        return operation.forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        operation, *tensors = inputs
        _describe(ctx, operation, output)
        ctx.save_for_backward(*operation.keep(tensors, output))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        return (None, *ctx.operation.backward(grad, *ctx.saved_tensors))


class _Transformed(_Traced):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        operation, *tensors = inputs
        _describe(ctx, operation, output)
        # Under vmap alone no derivative is due.
        due = any(ctx.needs_input_grad) or forward_ad._current_level >= 0
        kept = operation.keep(tensors, output) if due else ()
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        tangent = ctx.operation.jvp(tangents, *ctx.saved_tensors)
        return (tangent, *(None,) * ctx.residuals)


def _describe(ctx: Any, operation: Operation, output: tuple[Tensor, ...]) -> None:
    _, *residuals = output
    ctx.operation = operation
    ctx.residuals = len(residuals)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*residuals)


class _Eager(torch.autograd.Function):
    """Its residuals are no outputs, which is less work for autograd."""

    @staticmethod
    def forward(ctx: Any, operation: Operation, *inputs: Tensor) -> Tensor:
        outputs, kept = operation.record(*inputs)
        ctx.operation = operation
        ctx.save_for_backward(*kept)
        return outputs[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.operation.backward(grad, *ctx.saved_tensors))


# What Function.apply calls in the end; the questions that it asks before are answered in `apply`,
# and asking them again takes 3 us.
_apply_eager = super(torch.autograd.Function, _Eager).apply


@dataclass(frozen=True)
class _Substitute(Operation):
    def forward(self, hard: Tensor, soft: Tensor) -> tuple[Tensor]:
        return (hard.to(soft.dtype, copy=True),)

    def keep(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
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
        kind = hard.dtype if isinstance(hard, Tensor) else type(hard).__name__
        raise DtypeError(
            f"hard of {kind} does not cast exactly to soft's {soft.dtype}; "
            f"round it yourself with hard.to(soft.dtype) if that is meant"
        )
    try:
        hard, soft = torch.broadcast_tensors(hard.detach(), soft)
    except RuntimeError:
        raise ShapeError(
            f"hard and soft must broadcast, got shapes {tuple(hard.shape)} and {tuple(soft.shape)}"
        ) from None
    return apply(_Substitute(), hard, soft)


def held(value: Tensor, carrier: Tensor) -> Tensor:
    """Return `value` with the gradient of `carrier`, for use inside a rule's own backward.

    Where no second derivative can be asked for (compiled code, and any backward without
    `create_graph`) it is `value` as it is.
    """
    if is_compiling() or not torch.is_grad_enabled():
        return value
    return straight_through(value, carrier)


def _casts_exactly(source: torch.dtype, target: torch.dtype) -> bool:
    if source in (target, torch.bool):
        return True
    if source.is_complex:
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
