"""Tensors on a mesh of devices, DTensors: which ones are, and one seed for all ranks.

torch imports `torch.distributed.tensor` when asked, and so is it here: until then there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import TypeIs


def on_mesh(x: Tensor) -> TypeIs[DTensor]:
    """Whether a tensor is a `DTensor`."""
    if type(x) is Tensor or type(x) is Parameter:
        return False
    module = getattr(torch.distributed, "tensor", None)
    return module is not None and isinstance(x, module.DTensor)


def whole(x: Tensor) -> Tensor:
    """Return a tensor with what other ranks hold of it: a collective."""
    return x.full_tensor() if on_mesh(x) else x


def laid_as(x: Tensor, like: Tensor) -> Tensor:
    """Return a tensor that is whole on every rank as it lies where `like` does, if on a mesh."""
    return everywhere(x, like).redistribute(placements=like.placements) if on_mesh(like) else x


def everywhere(x: Tensor, like: DTensor) -> DTensor:
    """Return a tensor that is whole on every rank as one of the mesh on which `like` lies.

    Its gradient is summed over the ranks.
    """
    if on_mesh(x):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    placements = (Replicate(),) * like.device_mesh.ndim
    return DTensor.from_local(x, like.device_mesh, placements, run_check=False)


def own(x: Tensor) -> Tensor:
    """Return what this rank holds of a tensor, with any dimensions in front.

    Of what several ranks hold the first one has all, and the others have nothing.
    """
    if not on_mesh(x):
        return x
    from torch.distributed.tensor import Replicate

    x = x.redistribute(placements=[Replicate() if p.is_partial() else p for p in x.placements])
    rank = x.device_mesh.get_coordinate() or ()
    again = any(at and p.is_replicate() for at, p in zip(rank, x.placements, strict=False))
    held: Tensor = x.to_local()
    return held.unsqueeze(0)[:0] if again else held


def agreed(seed: Tensor, x: DTensor) -> Tensor:
    """Return the first rank's seed on every rank of the mesh that `x` lies on."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    mesh = x.device_mesh
    everywhere = (Replicate(),) * mesh.ndim
    for axis in range(mesh.ndim):
        # A sum to which the others add nothing: unlike a broadcast it is known to the compiler.
        part = seed if mesh.get_local_rank(axis) == 0 else torch.zeros_like(seed)
        parts = DTensor.from_local(
            part, mesh, (*everywhere[:axis], Partial(), *everywhere[axis + 1 :])
        )
        seed = parts.redistribute(placements=everywhere).to_local()
    return seed
