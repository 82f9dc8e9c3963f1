"""Moments of the law of k of n as operations: each one's derivative is the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.engine import apply
from ..core.kernels import kernel
from ..core.noise import in_blocks
from ..core.operation import Operation
from .subset_tree import cumulant, log_partition


@kernel("(Tensor logits, Tensor directions, int k) -> Tensor")
def subset_cumulant(logits: Tensor, directions: Tensor, k: int) -> Tensor:
    """Return the marginals, or their derivative along directions, each of the logits' shape."""

    def block(_: int, logits: Tensor, *directions: Tensor) -> Tensor:
        return cumulant(logits, k, directions).to(logits.dtype)

    n = logits.shape[-1]
    rows = [x.reshape(-1, n) for x in (logits, *directions)]
    return in_blocks(block, *rows, width=work(n, k) * 3 ** len(directions)).reshape(logits.shape)


@dataclass
class Cumulant(Operation):
    """The marginals, the covariance times one direction, the third cumulant times two, and so on.

    They are the derivatives of `log_partition`, so none depends on the order of its directions.
    """

    dims = ("... C",)

    k: int

    def forward(self, logits: Tensor, *directions: Tensor) -> tuple[Tensor]:
        moved = [x.expand(logits.shape) for x in directions]
        along = torch.stack(moved) if moved else logits.new_empty(0, *logits.shape)
        found = subset_cumulant(logits, along, self.k)
        if not directions and found.dtype == torch.float64:  # narrower ones round what is beyond 1
            found = found.clamp(max=1)
        return (found,)

    def backward(self, grad: Tensor, logits: Tensor, *directions: Tensor) -> tuple[Tensor, ...]:
        others = (directions[:i] + directions[i + 1 :] for i in range(len(directions)))
        return (
            apply(self, logits, *directions, grad),
            *(apply(self, logits, *rest, grad) for rest in others),
        )

    def jvp(
        self, tangents: Sequence[Tensor | None], logits: Tensor, *directions: Tensor
    ) -> Tensor | None:
        to_logits, *moved = tangents
        parts = [] if to_logits is None else [apply(self, logits, *directions, to_logits)]
        for i, tangent in enumerate(moved):
            if tangent is not None:
                parts.append(apply(self, logits, *directions[:i], tangent, *directions[i + 1 :]))
        total: Tensor | None = sum(parts[1:], parts[0]) if parts else None
        return total


@dataclass
class LogPartition(Operation):
    """The logarithm of the sum of `exp(<z, logits>)` over all z of k ones, a row."""

    dims = ("... C",)

    k: int

    def forward(self, logits: Tensor) -> tuple[Tensor]:
        def block(_: int, logits: Tensor) -> Tensor:
            return log_partition(logits, self.k).to(logits.dtype)

        n = logits.shape[-1]
        found = in_blocks(block, logits.reshape(-1, n), width=work(n, self.k))
        return (found.reshape(logits.shape[:-1]),)

    def backward(self, grad: Tensor, logits: Tensor) -> tuple[Tensor]:
        return (grad.unsqueeze(-1) * apply(Cumulant(self.k), logits),)

    def jvp(self, tangents: Sequence[Tensor], logits: Tensor) -> Tensor:
        return (apply(Cumulant(self.k), logits) * tangents[0]).sum(-1)


def work(n: int, k: int) -> int:
    """Return about how many products the largest level of a row's tree needs."""
    return 2 * n * min(k + 1, n)
