"""The engine: one autograd.Function, and one torch operator, that join a forward to any backward.

Eager code enters the Function at once. Everything else (compiled and exported graphs, the
transforms of `torch.func`) sees the operator `straightthrough::apply`, whose autograd kernel enters
the same Function; there the operation travels as text (`portable.py`). What a graph holds of an
operator is thus the operator itself, with its gradient, and not what happened to be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_exporting

from .internals import (
    below_autograd,
    derivatives_enabled,
    entry,
    forward_mode,
    one_level,
    transforms_active,
    unwrap_if_dead,
)
from .kernels import disabled
from .library import library
from .operation import Operation
from .portable import read, write

Outputs = tuple[Tensor, ...]


def apply(operation: Operation, *inputs: Tensor) -> Tensor:
    """Return the value of `operation`, with its backward."""
    if is_compiling() or transforms_active():
        return _through_torch(operation, inputs)
    recording = torch.is_grad_enabled()
    if not recording and not forward_mode():
        return operation.forward(*inputs)[0]
    alive = [*map(unwrap_if_dead, inputs)]
    if forward_mode():
        return _enter(operation, None, *alive)
    for tensor in alive:
        if tensor.requires_grad:
            return _enter(operation, None, *alive)
    with torch.no_grad():
        return operation.forward(*alive)[0]


def _through_torch(operation: Operation, inputs: Sequence[Tensor]) -> Tensor:
    if torch.onnx.is_in_onnx_export():  # it knows no operator of ours, and wants no gradient
        with disabled():
            return operation.forward(*inputs)[0]
    numbers: list[Tensor] = []
    integers: list[int] = []
    text = write(operation, numbers, integers)
    value: Tensor = _overload(text, numbers, [*inputs], integers)[0]
    return value


class Node(torch.autograd.Function):
    """The one Function. Its first argument is the operation, its second how the outputs are got.

    Where that is None it returns the value alone, as outputs that nobody sees cost time.
    """

    @staticmethod
    def forward(
        ctx: Any, operation: Operation, call: Callable[..., Any] | None, *inputs: Tensor
    ) -> Tensor | Outputs:
        outputs, kept = (call or operation.record)(*inputs)
        ctx.operation = operation
        ctx.save_for_backward(*kept)
        if forward_mode():
            ctx.save_for_forward(*kept)
        ctx.residuals = 0
        if call is None:
            return outputs[0]
        ctx.set_materialize_grads(False)
        ctx.residuals = len(outputs) - 1
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        return (None, None, *ctx.operation.backward(grad, *ctx.saved_tensors))

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Tensor | None) -> Any:
        tangent = ctx.operation.jvp(tangents, *ctx.saved_tensors)
        return (tangent, *(None,) * ctx.residuals) if ctx.residuals else tangent


_enter = entry(Node)

# ---- the operator ----

library.define(
    "apply(str operation, Tensor[] numbers, Tensor[] inputs, SymInt[] integers) -> Tensor[]"
)
_overload: torch._ops.OpOverload = torch.ops.straightthrough.apply.default


def _forward(
    text: str, numbers: Sequence[Tensor], inputs: Sequence[Tensor], integers: Sequence[int]
) -> list[Tensor]:
    with torch.no_grad():  # none is due below autograd, and kernels serve
        return [*read(text, numbers, integers).forward(*inputs)]


def _autograd(
    keyset: torch._C.DispatchKeySet,
    text: str,
    numbers: Sequence[Tensor],
    inputs: Sequence[Tensor],
    integers: Sequence[int],
) -> list[Tensor]:
    def below() -> Outputs:
        return tuple(below_autograd(_overload, keyset, text, numbers, inputs, integers))

    due = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    if not due and not forward_mode():
        # A graph to be run has the kernels in it; one to be exported, the operator.
        if is_compiling() and not is_exporting() and not transforms_active():
            return _forward(text, numbers, inputs, integers)
        return [*below()]
    operation = read(text, numbers, integers)
    if not transforms_active():
        return [*_enter(operation, operation.record, *inputs)]

    def at_this_level(*inputs: Tensor) -> tuple[Outputs, Sequence[Tensor]]:
        with derivatives_enabled():
            outputs = below()
        return outputs, operation.keep(inputs, outputs)

    with one_level():
        return [*_enter(operation, at_this_level, *inputs)]


def _vmap(
    info: Any,
    dims: Sequence[Any],
    text: str,
    numbers: Sequence[Tensor],
    inputs: Sequence[Tensor],
    integers: Sequence[int],
) -> tuple[list[Tensor], list[int]]:
    of_numbers, of_inputs = tuple(dims[1]), tuple(dims[2])
    batched = Batched(text, of_numbers, of_inputs, tuple(integers))
    own: list[int] = []
    spelled = write(batched, [], own)
    outputs = _overload(spelled, [], [*numbers, *inputs], own)
    return outputs, [0] * len(outputs)


library.impl("apply", _forward, "CompositeExplicitAutograd")
library.impl("apply", _autograd, "Autograd", with_keyset=True)
torch.library.register_fake("straightthrough::apply", _forward, lib=library)
torch.library.register_vmap("straightthrough::apply", _vmap, lib=library)


@dataclass(frozen=True)
class Batched(Operation):
    """An operation under `vmap`: its numbers and inputs in a row, each batched or not.

    Every method is `vmap` of the operation's own, and every output has its batch first.
    """

    text: str
    number_dims: tuple[int | None, ...]
    input_dims: tuple[int | None, ...]
    integers: tuple[int, ...]

    def forward(self, *inputs: Tensor) -> Outputs:
        def one(*inputs: Tensor) -> Outputs:
            operation, own = self._operation(inputs)
            return operation.forward(*own)

        return torch.vmap(one, (*self.number_dims, *self.input_dims))(*inputs)

    def keep(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        size, dims = outputs[0].shape[0], (*self.number_dims, *self.input_dims)
        first = [_batch_first(x, dim, size) for x, dim in zip(inputs, dims, strict=True)]
        operation, own = self._operation(first)
        return (*first[: len(self.number_dims)], *operation.keep(own, outputs))

    def backward(self, grad: Tensor, *kept: Tensor) -> tuple[Tensor | None, ...]:
        due: list[bool] = []

        def one(grad: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
            operation, own = self._operation(kept)
            gradients = operation.backward(grad, *own)
            due[:] = [gradient is not None for gradient in gradients]
            return tuple(gradient for gradient in gradients if gradient is not None)

        found = iter(torch.vmap(one)(grad, *kept))
        gradients = (
            _unbatched(next(found), dim) if yes else None
            for dim, yes in zip(self.input_dims, due, strict=True)
        )
        return (*(None for _ in self.number_dims), *gradients)

    def jvp(self, tangents: Sequence[Tensor | None], *kept: Tensor) -> Tensor | None:
        own = tangents[len(self.number_dims) :]
        moving = {i: tangent for i, tangent in enumerate(own) if tangent is not None}

        def one(*tensors: Tensor) -> Tensor:
            operation, rest = self._operation(tensors[len(moving) :])
            of_one = dict(zip(moving, tensors, strict=False))
            moved = operation.jvp([of_one.get(i) for i in range(len(own))], *rest)
            assert moved is not None
            return moved

        dims = (*(self.input_dims[i] for i in moving), *(0 for _ in kept))
        pushed: Tensor = torch.vmap(one, dims)(*moving.values(), *kept)
        return pushed

    def _operation(self, tensors: Sequence[Tensor]) -> tuple[Operation, Sequence[Tensor]]:
        """Return the operation of one example, and what comes after its numbers."""
        count = len(self.number_dims)
        return read(self.text, tensors[:count], self.integers), tensors[count:]


def _batch_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _unbatched(gradient: Tensor, dim: int | None) -> Tensor:
    """Return a gradient whose batch comes first as the input has it: at `dim`, or nowhere."""
    return gradient.sum(0) if dim is None else gradient.movedim(0, dim)
