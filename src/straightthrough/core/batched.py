"""`vmap` of an operation is an operation: every method is `vmap` of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .engine import Outputs, through_operator
from .library import library
from .operation import Operation
from .portable import read


def _vmap(
    info: Any,
    dims: Sequence[Any],
    text: str,
    numbers: Sequence[Tensor],
    inputs: Sequence[Tensor],
    integers: Sequence[int],
) -> tuple[list[Tensor], list[int]]:
    batched = Batched(text, tuple(dims[1]), tuple(dims[2]), tuple(integers))
    outputs = through_operator(batched, [*numbers, *inputs])
    return outputs, [0] * len(outputs)


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

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        size, dims = outputs[0].shape[0], (*self.number_dims, *self.input_dims)
        first = [_batch_first(x, dim, size) for x, dim in zip(inputs, dims, strict=True)]
        operation, own = self._operation(first)
        return (*first[: len(self.number_dims)], *operation.residuals(own, outputs))

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        due: list[bool] = []

        def one(grad: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
            operation, own = self._operation(saved)
            gradients = operation.backward(grad, *own)
            due[:] = [gradient is not None for gradient in gradients]
            return tuple(gradient for gradient in gradients if gradient is not None)

        found = iter(torch.vmap(one)(grad, *saved))
        gradients = (
            _unbatched(next(found), dim) if yes else None
            for dim, yes in zip(self.input_dims, due, strict=True)
        )
        return (*(None for _ in self.number_dims), *gradients)

    def jvp(self, tangents: Sequence[Tensor | None], *saved: Tensor) -> Tensor:
        # A transform can't begin where torch asks for a tangent, but an operator can be called.
        moving = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
        pushed = Pushed(self, moving)
        return through_operator(pushed, [*(tangents[i] for i in moving), *saved])[0]  # type: ignore[list-item]  # none is None

    def push(self, moving: Sequence[int], *tensors: Tensor) -> Tensor:
        """Return the tangent of the value, of the tangents of some inputs and what was saved."""
        count, skip = len(moving), len(self.number_dims)

        def one(*tensors: Tensor) -> Tensor:
            operation, saved = self._operation(tensors[count:])
            of_input = dict(zip(moving, tensors, strict=False))
            tangents = [of_input.get(i + skip) for i in range(len(self.input_dims))]
            moved: Tensor = operation.jvp(tangents, *saved)  # type: ignore[assignment]  # as one moves
            return moved

        dims = (*(self.input_dims[i - skip] for i in moving), *(0 for _ in tensors[count:]))
        pushed: Tensor = torch.vmap(one, dims)(*tensors)
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


@dataclass(frozen=True)
class Pushed(Operation):
    """The tangent of a batched operation, of tangents and of what was saved."""

    batched: Batched
    moving: tuple[int, ...]

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        return (self.batched.push(self.moving, *tensors),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs

    def backward(self, grad: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        smooth = [i for i, tensor in enumerate(tensors) if tensor.is_floating_point()]

        def push(*some: Tensor) -> Tensor:
            every = [*tensors]
            for i, tensor in zip(smooth, some, strict=True):
                every[i] = tensor
            return self.batched.push(self.moving, *every)

        backward = torch.func.vjp(push, *(tensors[i] for i in smooth))[1]
        found = dict(zip(smooth, backward(grad), strict=True))
        return tuple(found.get(i) for i in range(len(tensors)))
