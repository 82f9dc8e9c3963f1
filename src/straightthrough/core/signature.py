"""The tensors that go into an operator and come out of it, as named dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ArgumentError


@dataclass(frozen=True)
class Input:
    """A tensor that an operator takes.

    Attributes:
        name: the argument that it is passed as.
        dims: its shape: `"..."`, any leading dimensions, then a name each, as in `"... C"`. Inputs
            and outputs agree where a name, or `"..."`, is the same. The first input has `"..."`,
            and one without it is shared by all that is drawn or chosen.
        differentiable: whether it gets a gradient.
        positive: whether only numbers above 0 mean anything.
        broadcasts: whether any shape that broadcasts to the first input's is taken, `dims` being
            one of them.
    """

    name: str
    dims: str = "..."
    differentiable: bool = True
    positive: bool = False
    broadcasts: bool = False

    @property
    def batched(self) -> bool:
        """Whether it has any leading dimensions."""
        return self.dims.startswith("...")

    @property
    def named(self) -> list[str]:
        """The names of its dimensions after the leading ones."""
        return names(self.dims)


def names(dims: str) -> list[str]:
    """Return the names in dimensions such as `"... C"`."""
    return dims.removeprefix("...").split()


def sizes(inputs: Sequence[Input], tensors: Sequence[Tensor]) -> tuple[torch.Size, dict[str, int]]:
    """Return the leading dimensions of `tensors`, and the size of each that has a name.

    Raises:
        ArgumentError: if two sizes of one name differ.
    """
    lead, found = torch.Size(), dict[str, int]()
    for one, tensor in zip(inputs, tensors, strict=True):
        count = tensor.ndim - len(one.named)
        lead = tensor.shape[:count] if one.batched else lead
        for name, size in zip(one.named, tensor.shape[count:], strict=True):
            if found.setdefault(name, size) != size:
                raise ArgumentError(f"{one.name} has {name} = {size}, not {found[name]}")
    return lead, found


def shaped(dims: str, lead: Sequence[int], sizes: Mapping[str, int]) -> torch.Size:
    """Return the shape that `dims` stand for."""
    leading = lead if dims.startswith("...") else ()
    return torch.Size([*leading, *(sizes[name] for name in names(dims))])
