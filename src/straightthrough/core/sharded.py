"""Operations on DTensors: each rank computes what it holds, with the noise of its place.

The outcome lies as the input does. Rows lie whole on a rank; elements may lie anyhow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .errors import ArgumentError
from .mesh import on_mesh
from .noise import Place
from .operation import Draw, Operation
from .signature import names

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement

Placements = tuple["Placement", ...]


def apply_sharded(apply: Callable[..., Any], operation: Operation, inputs: Sequence[Tensor]) -> Any:
    """Return what `apply` does where some of the inputs are DTensors, as DTensors."""
    dims = operation.dims
    first, *others = _summed(operation, inputs[: len(dims)])
    mesh, placements, lead = first.device_mesh, first.placements, first.ndim - len(names(dims[0]))
    check_rows_whole(first, lead)
    if isinstance(operation, Draw):
        place = _place(first.shape[:lead], mesh, placements)
        if place is None:  # no map of positions: every rank draws the whole, and keeps its part
            everywhere = _replicated(mesh)
            whole = [_laid(one, everywhere) for one in (first, *others)]
            y = apply_sharded(apply, operation, (*whole, *inputs[len(dims) :]))
            return _mapped(lambda y: y.redistribute(placements=placements), y)
        there = _within(operation.place, place, placements)
        operation = dataclasses.replace(operation, place=there)  # type: ignore[type-var]  # all are dataclasses
    parts = [_part(x, d, first) for x, d in zip((first, *others), dims, strict=True)]
    y = apply(operation, *parts, *inputs[len(dims) :])
    return _mapped(lambda y: _joined(y, first, lead), y)


def _summed(operation: Operation, tensors: Sequence[Tensor]) -> list[DTensor]:
    """Return the tensors, all on one mesh; those that are sums over ranks are summed."""
    if not tensors:
        raise ArgumentError(f"{operation.unsharded}, or pass .full_tensor()")
    found = [x for x in tensors if on_mesh(x)]
    if len(found) < len(tensors) or any(x.device_mesh != found[0].device_mesh for x in found):
        raise ArgumentError(
            "all tensors of a call but a seed must be DTensors on one mesh, or none; of what is "
            "whole on every rank make one with "
            "torch.distributed.tensor.distribute_tensor(tensor, mesh), of a seed a plain tensor"
        )
    from torch.distributed.tensor import Replicate

    return [
        _laid(x, tuple(Replicate() if p.is_partial() else p for p in x.placements)) for x in found
    ]


def _laid(x: DTensor, placements: Placements) -> DTensor:
    """Return a DTensor that lies so."""
    if x.placements == placements:
        return x
    x = x.redistribute(placements=placements)
    # Not in compiled code, whose gradients are all there.
    return _Zeros.apply(x) if x.requires_grad and not is_compiling() else x


class _Zeros(torch.autograd.Function):
    """The input forward, and backward zeros where a rule has no gradient for it.

    There the backward of torch's `redistribute` would get a plain tensor, and fail.
    """

    @staticmethod
    def forward(x: DTensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[DTensor], output: Tensor) -> None:
        ctx.set_materialize_grads(False)
        (x,) = inputs
        ctx.zeros = x.shape, x.dtype, x.device_mesh, x.placements

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Tensor:
        if grad is not None:
            return grad
        from torch.distributed.tensor import zeros

        shape, dtype, mesh, placements = ctx.zeros
        return zeros(shape, dtype=dtype, device_mesh=mesh, placements=placements)


def _replicated(mesh: DeviceMesh) -> Placements:
    from torch.distributed.tensor import Replicate

    return tuple(Replicate() for _ in range(mesh.ndim))


def check_rows_whole(x: DTensor, lead: int) -> None:
    """Raise where a dimension of the rows, those from `lead` on, is cut."""
    for axis, placement in enumerate(x.placements):
        if not placement.is_replicate() and _dim(placement) >= lead:
            raise ArgumentError(
                f"all classes of a row must lie on one rank, and they are sharded along axis "
                f"{axis} of the mesh; use x.redistribute(placements=[...]) with Replicate(), or "
                f"the Shard of another dimension, as placements[{axis}]"
            )


def _dim(placement: Any) -> int:
    """Return the dimension that a placement shards."""
    dim: int = placement.dim
    return dim


def _part(x: DTensor, dims: str, first: DTensor) -> Tensor:
    """Return what this rank needs of an input: its own part or, of what rows share, all of it."""
    if dims.startswith("..."):
        return _laid(x, first.placements).to_local()
    from torch.distributed.tensor import Partial

    if not dims and 0 < x.ndim < first.ndim:  # it broadcasts
        x = x.reshape(*[1] * (first.ndim - x.ndim), *x.shape)  # type: ignore[assignment]  # it is one
    wanted = _along(x, dims, first)
    if x.placements != wanted and not all(p.is_replicate() for p in x.placements):
        raise ArgumentError(
            f"a tensor {dims or 'that broadcasts'} that all rows share must lie whole on every "
            f"rank, got placements {x.placements}; use "
            f"x.redistribute(placements=[Replicate()] * {x.device_mesh.ndim})"
        )
    # Ranks with rows of their own each have a part of the gradient.
    grads = [
        Partial() if mine.is_replicate() and not p.is_replicate() else mine
        for mine, p in zip(wanted, first.placements, strict=True)
    ]
    return _laid(x, wanted).to_local(grad_placements=grads)


def _along(x: DTensor, dims: str, first: DTensor) -> Placements:
    """Return how what rows share has to lie: whole, or cut where it has sizes of its own to cut."""
    from torch.distributed.tensor import Replicate

    return tuple(
        p if not (dims or p.is_replicate()) and x.ndim and x.shape[_dim(p)] > 1 else Replicate()
        for p in first.placements
    )


def _joined(y: Tensor, first: DTensor, lead: int) -> Tensor:
    """Return the parts of a value as one tensor that lies as the first input does."""
    from torch.distributed.tensor import DTensor

    shape = torch.Size([*first.shape[:lead], *y.shape[lead:]])
    stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return DTensor.from_local(
        y.contiguous(), first.device_mesh, first.placements, shape=shape, stride=stride
    )


def _mapped(function: Callable[[Any], Any], y: Any) -> Any:
    return tuple(map(function, y)) if isinstance(y, tuple) else function(y)


def _place(shape: torch.Size, mesh: DeviceMesh, placements: Placements) -> Place | None:
    """Return where this rank's units lie among all; on every rank None if on one there is no place.

    A place is one run, or runs evenly apart.
    """
    from torch.distributed.tensor import Shard

    if any(not p.is_replicate() and type(p) is not Shard for p in placements):
        return None  # what lies apart along one dimension
    _, largest = _cut(shape, mesh, placements, [0] * mesh.ndim)
    dims = [dim for dim in range(len(shape)) if largest[dim] != shape[dim]]
    outermost = next((dim for dim in range(len(shape)) if largest[dim] > 1), len(shape))
    if any(outermost < dim for dim in dims[:-1]):
        return None
    first, size = _cut(shape, mesh, placements, mesh.get_coordinate() or [])
    if not dims or 0 in size:
        return 0, 0, 0
    last = dims[-1]
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    offset = sum(start * stride for start, stride in zip(first, strides, strict=True))
    if math.prod(size[:last]) == 1:
        return offset, 0, 0
    return offset, size[last] * strides[last], shape[last] * strides[last]


def _cut(
    shape: torch.Size, mesh: DeviceMesh, placements: Placements, rank: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the first index and the size of what a rank holds, a dimension each.

    A dimension is cut as by `torch.chunk`, and what an axis of the mesh leaves is cut by the next.
    """
    first, size = [0] * len(shape), [*shape]
    for axis, placement in enumerate(placements):
        if not placement.is_replicate():
            dim = _dim(placement)
            chunk = (size[dim] + mesh.size(axis) - 1) // mesh.size(axis)
            skipped = min(chunk * rank[axis], size[dim])
            first[dim] += skipped
            size[dim] = min(chunk, size[dim] - skipped)
    return first, size


def _within(outer: Place, inner: Place, placements: Placements) -> Place:
    """Return the place of a part, whose place in a tensor is `inner`, where the tensor's is."""
    if all(placement.is_replicate() for placement in placements):
        return outer
    if outer[1]:
        raise ArgumentError(
            "a seed's run and stride say how a tensor is cut, and so does a DTensor; pass only "
            "the offset of the whole DTensor, as st.Seed(value, offset)"
        )
    return outer[0] + inner[0], *inner[1:]
