"""Codebook operators: every forward with its backward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.operation import Operation
from ...core.precision import compute_dtype, copied, narrowed
from ...core.rules import Saved
from ...estimators import PairEstimator, PairSTE
from .grid import SLOPES
from .reference import (
    codewords,
    finite_scalars,
    finite_scalars_gradient,
    nearest_by_scores,
    signs,
    sphere_gradient,
)
from .search import nearest_index


@dataclass
class Nearest(Operation):
    """The number of the nearest codeword, without a gradient."""

    dims = ("... D", "K D")

    def forward(self, z: Tensor, codebook: Tensor) -> tuple[Tensor]:
        return (nearest_index(z, codebook),)

    def forward_in_onnx(self, z: Tensor, codebook: Tensor) -> tuple[Tensor]:
        return (nearest_by_scores(z, codebook),)

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[None, None]:
        return None, None


@dataclass
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
        return (codewords(table, index),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs[:1]

    def backward(self, grad: Tensor, index: Tensor) -> tuple[None, Tensor]:
        return None, _summed(grad, index, self.rows, self.dtype)

    def jvp(self, tangents: Sequence[Tensor], index: Tensor) -> Tensor:
        return _moved(tangents[1], index)


def _moved(tangent: Tensor, index: Tensor) -> Tensor:
    """Return the tangents of codewords, 0 for -1."""
    return torch.where((index < 0).unsqueeze(-1), 0, codewords(tangent, index))


def _summed(grad: Tensor, index: Tensor, rows: int, dtype: str) -> Tensor:
    """Return what comes to each of so many rows of a table, in its dtype."""
    # A row without a codeword, whose index is -1, adds to one beyond the table.
    sums = grad.new_zeros(rows + 1, grad.shape[-1])
    sums = sums.index_add(0, index.flatten() % len(sums), grad.reshape(-1, grad.shape[-1]))
    return narrowed(sums[:-1], getattr(torch, dtype))


@dataclass
class Through(Operation):
    """The second of a pair forward, in the dtype of the first; the rule backward."""

    dims = ("... D", "... D")

    rule: PairEstimator

    def forward(self, z: Tensor, q: Tensor) -> tuple[Tensor]:
        return (copied(q, z.dtype),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return () if self.rule.saved is Saved.NOTHING else inputs

    def carrier(self, z: Tensor, q: Tensor) -> Tensor | None:
        passes = type(self.rule).gradient is PairSTE.gradient  # a subclass may have its own
        return z if passes else None

    def fill(self, copy: Tensor, z: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        if copy.stride() != q.stride():
            return super().fill(copy, z, q)
        copy.copy_(q)
        return ()

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.rule.backward(grad, *saved)

    def jvp(self, tangents: Sequence[Tensor | None], *saved: Tensor) -> Tensor:
        moving = next(tangent for tangent in tangents if tangent is not None)
        to_z, to_q = (torch.zeros_like(moving) if t is None else t for t in tangents)
        return self.rule.forward(to_z, to_q, *saved)


@dataclass
class Quantize(Operation):
    """The nearest codeword and its number forward; backward a rule that looks at neither vector.

    Of the table, which is not saved, there are the number of its rows and its dtype.
    """

    dims = ("... D", "K D")

    rule: PairEstimator
    rows: int
    dtype: str
    returned: ClassVar[slice] = slice(2)

    def forward(self, z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        index = nearest_index(z, codebook)
        return codewords(codebook, index).to(z.dtype), index

    def forward_in_onnx(self, z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        index = nearest_by_scores(z, codebook)
        return codewords(codebook, index).to(z.dtype), index

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return outputs[1:]

    def backward(self, grad: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        to_z, to_q = self.rule.backward(grad)
        if to_q is None:
            return to_z, None
        return to_z, _summed(to_q.to(compute_dtype(grad.dtype)), index, self.rows, self.dtype)

    def jvp(self, tangents: Sequence[Tensor | None], index: Tensor) -> Tensor:
        to_z, moved = tangents
        width = next(tangent.shape[-1] for tangent in tangents if tangent is not None)
        zero = index.new_zeros((*index.shape, width), dtype=getattr(torch, self.dtype))
        to_q = zero if moved is None else _moved(moved, index)
        return self.rule.forward(zero if to_z is None else to_z, to_q)


@dataclass
class FiniteScalars(Operation):
    """The nearest level of each bounded entry forward, the derivative of the bound backward."""

    dims = ("... D",)

    levels: tuple[int, ...]
    bound: str
    symmetric: bool
    returned: ClassVar[slice] = slice(2)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return finite_scalars(z, self.levels, SLOPES[self.bound], self.symmetric)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs

    def backward(self, grad: Tensor, z: Tensor) -> tuple[Tensor]:
        slope = SLOPES[self.bound]
        return (finite_scalars_gradient(z, grad, self.levels, slope, self.symmetric),)

    def jvp(self, tangents: Sequence[Tensor], z: Tensor) -> Tensor:
        return self.backward(tangents[0], z)[0]


def size_of_signs(width: int, sphere: bool) -> float:
    """Return 1, or on the sphere 1 over the root of their number."""
    return 1 / math.sqrt(width) if sphere else 1.0


@dataclass
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

    def carrier(self, z: Tensor) -> Tensor | None:
        return None if self.sphere else z

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor]:
        return (sphere_gradient(saved[0], grad) if self.sphere else grad,)

    def jvp(self, tangents: Sequence[Tensor], *saved: Tensor) -> Tensor:
        return self.backward(tangents[0], *saved)[0]  # J is its own transpose
