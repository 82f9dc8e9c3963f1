"""Codebook operators: every forward with its backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.operation import Operation
from ...core.precision import compute_dtype, narrowed
from ...core.rules import Saved
from ...estimators import PairEstimator
from .reference import finite_scalars, finite_scalars_gradient, signs, sphere_gradient
from .search import nearest_index


@dataclass(frozen=True)
class Nearest(Operation):
    """The number of the nearest codeword, without a gradient."""

    dims = ("... D", "K D")

    def forward(self, z: Tensor, codebook: Tensor) -> tuple[Tensor]:
        return (nearest_index(z, codebook),)

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[None, None]:
        return None, None


@dataclass(frozen=True)
class Codewords(Operation):
    """The rows of a table in float32 or float64 forward; backward adds up what comes to each.

    The numbers come first, as they say how the value lies on a mesh.

    The table is not saved, so that it may be written to before backward: of it there is the number
    of its rows, and its dtype.
    """

    dims = ("...", "K D")

    rows: int
    dtype: str

    def forward(self, index: Tensor, table: Tensor) -> tuple[Tensor]:
        value = table.index_select(0, index.flatten().clamp(min=0)).to(compute_dtype(table.dtype))
        value = value.reshape(*index.shape, table.shape[-1])
        return (torch.where((index < 0).unsqueeze(-1), torch.nan, value),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs[:1]

    def backward(self, grad: Tensor, index: Tensor) -> tuple[None, Tensor]:
        # A row without a codeword, whose index is -1, adds to one beyond the table.
        sums = grad.new_zeros(self.rows + 1, grad.shape[-1])
        sums = sums.index_add(0, index.flatten() % len(sums), grad.reshape(-1, grad.shape[-1]))
        return None, narrowed(sums[:-1], getattr(torch, self.dtype))

    def jvp(self, tangents: Sequence[Tensor], index: Tensor) -> Tensor:
        moved = self.forward(index, tangents[1])[0]
        return torch.where((index < 0).unsqueeze(-1), 0, moved)


@dataclass(frozen=True)
class Through(Operation):
    """The second of a pair forward, in the dtype of the first; the rule backward."""

    dims = ("... D", "... D")

    rule: PairEstimator

    def forward(self, z: Tensor, q: Tensor) -> tuple[Tensor]:
        return (q.to(z.dtype, copy=True),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return () if self.rule.saved is Saved.NOTHING else inputs

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor, Tensor]:
        return self.rule.backward(grad, *saved)

    def jvp(self, tangents: Sequence[Tensor | None], *saved: Tensor) -> Tensor:
        moving = next(tangent for tangent in tangents if tangent is not None)
        to_z, to_q = (torch.zeros_like(moving) if t is None else t for t in tangents)
        return self.rule.forward(to_z, to_q, *saved)


@dataclass(frozen=True)
class FiniteScalars(Operation):
    """The nearest level of each bounded entry forward, the derivative of the bound backward."""

    dims = ("... D",)

    levels: tuple[int, ...]
    slope: float
    symmetric: bool
    returned: ClassVar[slice] = slice(2)
    numbers_move: ClassVar[bool] = False

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return finite_scalars(z, self._levels(z), self.slope, self.symmetric)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs

    def backward(self, grad: Tensor, z: Tensor) -> tuple[Tensor]:
        levels = self._levels(z)
        return (finite_scalars_gradient(z, grad, levels, self.slope, self.symmetric),)

    def jvp(self, tangents: Sequence[Tensor], z: Tensor) -> Tensor:
        return self.backward(tangents[0], z)[0]

    def _levels(self, z: Tensor) -> Tensor:
        return torch.tensor(self.levels, device=z.device)


def size_of_signs(width: int, sphere: bool) -> float:
    """Return 1, or on the sphere 1 over the root of their number."""
    return 1 / math.sqrt(width) if sphere else 1.0


@dataclass(frozen=True)
class Signs(Operation):
    """The sign of each entry forward; backward the gradient as it is, or that to z / |z|.

    On the sphere the signs are those over the root of their number.
    """

    dims = ("... D",)

    sphere: bool
    returned: ClassVar[slice] = slice(2)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return signs(z, size_of_signs(z.shape[-1], self.sphere))

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs if self.sphere else ()

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor]:
        return (sphere_gradient(saved[0], grad) if self.sphere else grad,)

    def jvp(self, tangents: Sequence[Tensor], *saved: Tensor) -> Tensor:
        return self.backward(tangents[0], *saved)[0]  # J is its own transpose
