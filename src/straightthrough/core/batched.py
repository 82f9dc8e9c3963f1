"""`vmap` of an operation is an operation: every method is `vmap` of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    tensors, places = [*numbers, *inputs], [*dims[1], *dims[2]]
    shared = tuple(place is None for place in places)
    # Here autograd sees what moves: in the operation a second derivative would lose it.
    first = [
        x.expand(info.batch_size, *x.shape) if place is None else x.movedim(place, 0)
        for x, place in zip(tensors, places, strict=True)
    ]
    batched = Batched(text, len(numbers), shared, tuple(integers))
    outputs = through_operator(batched, first)
    return outputs, [0] * len(outputs)


torch.library.register_vmap("straightthrough::apply", _vmap, lib=library)


@dataclass
class Batched(Operation):
    """An operation under `vmap`: its numbers and inputs in a row, every one with a batch first.

    What all examples of the batch have in common is `shared`, and forward reads it once. Every
    method is `vmap` of the operation's own, and every output has its batch first.
    """

    text: str
    count: int
    shared: tuple[bool, ...]
    integers: tuple[int, ...]

    def forward(self, *tensors: Tensor) -> Outputs:
        def one(*tensors: Tensor) -> Outputs:
            operation, own = self._operation(tensors)
            return operation.forward(*own)

        given = (_one_of(x) if same else x for x, same in zip(tensors, self.shared, strict=True))
        return torch.vmap(one, tuple(None if same else 0 for same in self.shared))(*given)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        operation, own = self._operation(inputs)
        return (*inputs[: self.count], *operation.residuals(own, outputs))

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor | None, ...]:
        due: list[bool] = []

        def one(grad: Tensor, *saved: Tensor) -> tuple[Tensor, ...]:
            operation, own = self._operation(saved)
            gradients = operation.backward(grad, *own)
            due[:] = [gradient is not None for gradient in gradients]
            return tuple(gradient for gradient in gradients if gradient is not None)

        found = iter(torch.vmap(one)(grad, *saved))
        return (*(None for _ in range(self.count)), *(next(found) if yes else None for yes in due))

    def jvp(self, tangents: Sequence[Tensor | None], *saved: Tensor) -> Tensor:
        moving = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
        return _called(Pushed(self, moving), moving, tangents, saved)

    def push(self, moving: Sequence[int], *tensors: Tensor) -> Tensor:
        """Return the tangent of the value, of the tangents of some inputs and what was saved."""

        def one(*tensors: Tensor) -> Tensor:
            operation, saved = self._operation(tensors[len(moving) :])
            of_input = dict(zip(moving, tensors, strict=False))
            tangents = [of_input.get(i) for i in range(self.count, len(self.shared))]
            moved: Tensor = operation.jvp(tangents, *saved)  # type: ignore[assignment]  # as one moves
            return moved

        pushed: Tensor = torch.vmap(one)(*tensors)
        return pushed

    def _operation(self, tensors: Sequence[Tensor]) -> tuple[Operation, Sequence[Tensor]]:
        """Return the operation of one example, and what comes after its numbers."""
        return read(self.text, tensors[: self.count], self.integers), tensors[self.count :]


def _one_of(batch: Tensor) -> Tensor:
    """Return what all examples share; of an empty batch, anything of its shape."""
    return batch[0] if len(batch) else batch.new_zeros(batch.shape[1:])


class Formula(Operation):
    """An operation of one value, whose derivatives are those of what computes it."""

    def at(self, places: Sequence[int], tensors: Sequence[Tensor]) -> Callable[..., Tensor]:
        """Return the value as a function of some of the inputs, the others held."""

        def value(*some: Tensor) -> Tensor:
            every = [*tensors]
            for i, tensor in zip(places, some, strict=True):
                every[i] = tensor
            found: Tensor = self.forward(*every)[0]
            return found

        return value

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs

    def backward(self, grad: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        smooth = [i for i, tensor in enumerate(tensors) if tensor.is_floating_point()]
        at = self.at(smooth, tensors)
        found = torch.func.vjp(at, *(tensors[i] for i in smooth))[1](grad)
        of_input = dict(zip(smooth, found, strict=True))
        return tuple(of_input.get(i) for i in range(len(tensors)))

    def jvp(self, tangents: Sequence[Tensor | None], *tensors: Tensor) -> Tensor:
        moving = tuple(i for i, tangent in enumerate(tangents) if tangent is not None)
        return _called(Tangent(self, moving), moving, tangents, tensors)


@dataclass
class Pushed(Formula):
    """The tangent of a batched operation, of tangents and of what was saved."""

    batched: Batched
    moving: tuple[int, ...]

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        return (self.batched.push(self.moving, *tensors),)


@dataclass
class Tangent(Formula):
    """The tangent of a formula, of tangents and of its inputs."""

    formula: Formula
    moving: tuple[int, ...]

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        tangents, inputs = tensors[: len(self.moving)], tensors[len(self.moving) :]
        primals = tuple(inputs[i] for i in self.moving)
        return (torch.func.jvp(self.formula.at(self.moving, inputs), primals, tangents)[1],)


def _called(
    tangent: Pushed | Tangent,
    moving: Sequence[int],
    tangents: Sequence[Tensor | None],
    saved: Sequence[Tensor],
) -> Tensor:
    """Return a tangent: a transform can't begin where torch asks for one, but an operator can."""
    return through_operator(tangent, [*(tangents[i] for i in moving), *saved])[0]  # type: ignore[list-item]  # none is None
