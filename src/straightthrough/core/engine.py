"""The engine: one autograd.Function, and one torch operator, that join a forward to any backward.

Eager code enters the Function at once. Everything else (compiled and exported graphs, the
transforms of `torch.func`) sees the operator `straightthrough::apply`, whose autograd kernel enters
the same Function; there the operation travels as text (`portable.py`). What a graph holds of an
operator is thus the operator itself, with its gradient, and not what happened to be traced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.compiler import is_compiling, is_exporting

from .errors import check_not_nested
from .internals import (
    Operator,
    below_autograd,
    derivatives_enabled,
    dual_level,
    entry,
    forward_mode,
    observed,
    one_level,
    outer_levels,
    outlived,
    tracing,
    transforms_active,
    transforms_enabled,
    unwrap_if_dead,
    without_grad,
)
from .kernels import PLAIN, disabled
from .library import library
from .mesh import on_mesh
from .operation import Operation
from .portable import read, write
from .sharded import apply_sharded

Outputs = tuple[Tensor, ...]
Interceptor = Callable[[Operation, Sequence[Tensor]], Any]
"""Takes an operation and its inputs in the place of `apply`, and returns what that would."""


class _Taken(threading.local):
    """By whom calls are taken in a thread: another one may train meanwhile."""

    by: Interceptor | None = None


_taken = _Taken()
_open: list[Interceptor | None] = []
"""Of the contexts that are open in any thread; it costs the least to ask, and graphs guard it."""


@contextmanager
def intercepted(by: Interceptor | None) -> Iterator[None]:
    """Have an interceptor take all calls of `apply` in this thread, or with None none."""
    before, _taken.by = _taken.by, by
    _open.append(by)
    try:
        yield
    finally:
        _open.pop()
        _taken.by = before


def apply(operation: Operation, *inputs: Tensor) -> Any:
    """Return the value of `operation`, with its backward; a tuple where it returns more."""
    if _open and _taken.by is not None:
        return _taken.by(operation, inputs)
    plain = True
    for tensor in inputs:
        if type(tensor) not in PLAIN:
            plain = False
            if on_mesh(tensor):
                return apply_sharded(apply, operation, inputs)
    if is_compiling() or transforms_active():
        if is_exporting():
            if torch.onnx.is_in_onnx_export():
                with disabled():  # it knows no operator of ours, and wants no gradient
                    return operation.forward_in_onnx(*inputs)[operation.returned]
            if operation.dims and operation.dims[0] != "...":
                # Kernels may leave rows where they lie, of which a graph knows nothing.
                inputs = tuple(tensor.contiguous() for tensor in inputs)
        return tuple(through_operator(operation, inputs))[operation.returned]
    try:
        if dual_level():
            outputs = _enter(operation, operation.forward_and_save, *map(outlived, inputs))
            return outputs[operation.returned]
        if not is_grad_enabled():
            return operation.forward(*inputs)[operation.returned]
        if plain and operation.carrier is not None:
            value = _carried(operation, operation.carrier(*inputs), inputs)
            if value is not None:
                return value
        due = False
        for tensor in inputs:
            if unwrap_if_dead(tensor) is not tensor:
                return apply(operation, *map(outlived, inputs))
            if tensor.requires_grad:
                due = True
        if due:
            return _enter(operation, None, *inputs)
        return without_grad(operation.forward, inputs)[operation.returned]
    except RuntimeError:
        check_not_nested("an argument", *inputs)
        raise


FEW = 2**14
"""Entries that are copied in less time than a Function takes."""


def _carried(operation: Operation, carrier: Tensor | None, inputs: Sequence[Tensor]) -> Any:
    """Return what `apply` does, the value in the place of a copy of `carrier`; or None.

    Torch's own node of a copy passes the gradient on, in less time than a Function of Python's.
    Where the value may be laid, typed or placed otherwise, a Function has to serve.
    """
    if carrier is None or not carrier.requires_grad or observed() or carrier.numel() > FEW:
        return None
    for tensor in inputs:  # the value may be on any of their devices
        if not tensor.is_cpu:
            return None
    value = carrier.clone()
    others = without_grad(operation.fill, (value, *inputs))
    return (value, *others)[operation.returned] if others else value


def through_operator(operation: Operation, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the value of `operation` and its residuals by way of torch's dispatcher."""
    numbers: list[Tensor] = []
    integers: list[int] = []
    text = write(operation, numbers, integers, True)
    outputs: list[Tensor] = _overload(text, numbers, [*inputs], integers)
    return outputs


class Node(torch.autograd.Function):
    """The one Function. Its first argument is the operation, its second how the outputs are got.

    Where that is None it returns what the caller sees, as an output that nobody sees costs time.
    """

    @staticmethod
    def forward(
        ctx: Any, operation: Operation, call: Callable[..., Any] | None, *inputs: Tensor
    ) -> Tensor | Outputs:
        ctx.operation = operation
        ctx.materialize_grads = False
        if call is None:
            outputs, ctx.to_save = operation.forward_and_save(*inputs)
            seen = outputs[operation.returned]
            if type(seen) is not tuple:
                return seen
            outputs = seen
        else:
            outputs, saved = call(*inputs)
            ctx.save_for_backward(*saved)
            if forward_mode():
                ctx.save_for_forward(*saved)
        ctx.without_tangent = len(outputs) - 1
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        return (None, None, *ctx.operation.backward(grad, *ctx.saved_tensors))

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, *tangents: Tensor | None) -> Any:
        with outer_levels(ctx.saved_tensors) as saved:
            tangent = ctx.operation.jvp(tangents, *saved)
        return (tangent, *(None,) * ctx.without_tangent) if ctx.without_tangent else tangent


_enter = entry(Node, "operation", "without_tangent")

# ---- the operator ----

library.define(
    "apply(str operation, Tensor[] numbers, Tensor[] inputs, SymInt[] integers) -> Tensor[]"
)
_overload: Operator = torch.ops.straightthrough.apply.default


def _forward(
    text: str, numbers: Sequence[Tensor], inputs: Sequence[Tensor], integers: Sequence[int]
) -> list[Tensor]:
    with torch.no_grad():  # none is due below autograd, and kernels serve
        return [*read(text, numbers or (), integers or ()).forward(*inputs)]


def _fake(
    text: str, numbers: Sequence[Tensor], inputs: Sequence[Tensor], integers: Sequence[int]
) -> list[Tensor]:
    with transforms_enabled():  # an operation may be `vmap` of another
        return _forward(text, numbers, inputs, integers)


def _autograd(
    keyset: Any,
    text: str,
    numbers: Sequence[Tensor],
    inputs: Sequence[Tensor],
    integers: Sequence[int],
) -> list[Tensor]:
    # AOTInductor passes None for a list that is empty.
    numbers, integers = numbers or [], integers or []

    def below() -> Outputs:
        return tuple(below_autograd(_overload, keyset, text, numbers, inputs, integers))

    due = is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    if not due and not forward_mode():
        # A graph to be run has the kernels in it; one to be exported, the operator.
        if tracing() and not is_exporting() and not transforms_active():
            return _forward(text, numbers, inputs, integers)
        return [*below()]
    operation = read(text, numbers, integers)
    if not transforms_active():
        return [*_enter(operation, operation.forward_and_save, *inputs)]

    def at_this_level(*inputs: Tensor) -> tuple[Outputs, Sequence[Tensor]]:
        with derivatives_enabled():
            outputs = below()
        return outputs, operation.residuals(inputs, outputs)

    with one_level():
        return [*_enter(operation, at_this_level, *inputs)]


library.impl("apply", _forward, "CompositeExplicitAutograd")
library.impl("apply", _autograd, "Autograd", with_keyset=True)
torch.library.register_fake("straightthrough::apply", _fake, lib=library)
