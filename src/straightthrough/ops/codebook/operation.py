"""Codebook operators: every forward with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.operation import Operation
from ...core.precision import compute_dtype, narrowed
from ...core.rules import Saved
from ...estimators import PairEstimator


@dataclass(frozen=True)
class Codewords(Operation):
    """The rows of a table in float32 or float64 forward; backward adds up what comes to each.

    The table is not saved, so that it may be written to before backward: of it there is the number
    of its rows, and its dtype.
    """

    rows: int
    dtype: str

    def forward(self, table: Tensor, index: Tensor) -> tuple[Tensor]:
        value = table.index_select(0, index.flatten().clamp(min=0)).to(compute_dtype(table.dtype))
        value = value.reshape(*index.shape, table.shape[-1])
        return (torch.where((index < 0).unsqueeze(-1), torch.nan, value),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs[1:]

    def backward(self, grad: Tensor, index: Tensor) -> tuple[Tensor, None]:
        # A row without a codeword, whose index is -1, adds to one beyond the table.
        sums = grad.new_zeros(self.rows + 1, grad.shape[-1])
        sums = sums.index_add(0, index.flatten() % len(sums), grad.reshape(-1, grad.shape[-1]))
        return narrowed(sums[:-1], getattr(torch, self.dtype)), None

    def jvp(self, tangents: Sequence[Tensor], index: Tensor) -> Tensor:
        moved = self.forward(tangents[0], index)[0]
        return torch.where((index < 0).unsqueeze(-1), 0, moved)


@dataclass(frozen=True)
class Through(Operation):
    """The second of a pair forward, in the dtype of the first; the rule backward."""

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
