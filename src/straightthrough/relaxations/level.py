"""The level b of a row at which `sum_i F(z_i - b) = k`, for the laws F of `Threshold`.

Rows come relative to their k-th largest entry, which is 0; the next one is finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.engine import apply
from ..core.operation import Operation
from ..core.precision import check_has_float64

STEPS = 8
"""Of Newton's method; the sixth changes float64 no more."""

FAR = 1000.0
"""Beyond it an entry weighs nothing."""


def next_largest(z: Tensor, k: int) -> Tensor:
    """Return the (k + 1)-th largest entry of each row, `(..., 1)`."""
    return z.topk(k + 1, -1).values[..., k:]


def logistic_level(z: Tensor, k: int) -> Tensor:
    """Newton's method on `log(R / D)`, from the middle of the gap.

    D is what the k largest lack of k, R what the rest have. Both logarithms are all but linear, in
    the widest gap too, where neither D nor R can be told from 0 in a sum of k.
    """
    above, below = z > 0, z < 0
    tied_above = (k - above.sum(-1, keepdim=True)).to(z.dtype)
    tied_below = (z == 0).sum(-1, keepdim=True).to(z.dtype) - tied_above
    b = next_largest(z, k) / 2

    def sums(entries: Tensor, of_above: Tensor, of_below: Tensor) -> tuple[Tensor, Tensor]:
        lacking = (entries * above).sum(-1, keepdim=True) + tied_above * of_above
        having = (entries * below).sum(-1, keepdim=True) + tied_below * of_below
        return lacking, having

    for _ in range(STEPS):
        part = torch.sigmoid(torch.where(above, b - z, z - b))
        over, under = torch.sigmoid(b), torch.sigmoid(-b)
        lacking, having = sums(part, over, under)
        slopes = sums(part * (1 - part), over * under, over * under)
        step = (having / lacking).log() / (slopes[0] / lacking + slopes[1] / having)
        b = torch.where((lacking > 0) & (having > 0), b + step, b)
    return b.squeeze(-1)


def laplace_level(z: Tensor, k: int) -> Tensor:
    """In closed form between two neighbours of the sorted row, with sums in log space."""
    check_has_float64("the threshold of the Laplace law", z.device)
    n = z.shape[-1]
    least, most = next_largest(z, k) - FAR, torch.full_like(z[..., :1], FAR)
    r = torch.minimum(torch.maximum(z, least), most).double().sort(-1).values
    none = torch.full_like(r[..., :1], -torch.inf)
    # Of each entry: log sums of exp(r_i - r_j), i <= j, and of exp(r_j - r_i), i > j.
    below = r.logcumsumexp(-1) - r
    tails = torch.cat([none, (-r).flip(-1).logcumsumexp(-1)], -1).flip(-1)
    above = tails[..., 1:] + r
    after = torch.arange(n - 1, -1, -1, dtype=r.dtype, device=r.device)
    sums = after - above.exp() / 2 + below.exp() / 2
    m = (sums >= k).sum(-1, keepdim=True)

    def at(values: Tensor, first: Tensor) -> Tensor:
        return torch.cat([first, values], -1).gather(-1, m)

    c, log_above = at(r, r[..., :1]), at(above, tails[..., :1] + r[..., :1])
    log_below, w = at(below, none), n - m - k
    root = (w.double().square() + (log_above + log_below).exp()).sqrt()
    step = torch.where(
        w == 0,
        (log_below - log_above) / 2,
        torch.where(w > 0, (w + root).log() - log_above, log_below - (root - w).log()),
    )
    return (c + step).to(z.dtype).squeeze(-1)


def middle(z: Tensor, k: int) -> Tensor:
    """Half way between the k-th and the next largest."""
    return next_largest(z, k).squeeze(-1) / 2


def logistic_log_density(x: Tensor) -> Tensor:
    """`log(sigmoid(x) sigmoid(-x))`."""
    return F.logsigmoid(x) + F.logsigmoid(-x)


def laplace(x: Tensor) -> Tensor:
    """The distribution function of Laplace's law."""
    return torch.where(x < 0, x.clamp(max=0).exp() / 2, 1 - x.clamp(min=0).neg().exp() / 2)


def laplace_log_density(x: Tensor) -> Tensor:
    """`-|x| - log 2`."""
    return -x.abs() - torch.tensor(2.0, dtype=x.dtype, device=x.device).log()


class Law(NamedTuple):
    """A distribution function, the logarithm of its density, its level; whether sums are k."""

    value: Callable[[Tensor], Tensor]
    log_density: Callable[[Tensor], Tensor]
    level: Callable[[Tensor, int], Tensor]
    exact: bool = True


LAWS = {
    "logistic": Law(torch.sigmoid, logistic_log_density, logistic_level),
    "laplace": Law(laplace, laplace_log_density, laplace_level),
    "midpoint": Law(torch.sigmoid, logistic_log_density, middle, exact=False),
}


@dataclass
class Level(Operation):
    """The level of a row, whose derivative is that of the equation it solves."""

    dims = ("... C",)

    law: str
    k: int

    def forward(self, z: Tensor) -> tuple[Tensor]:
        return (LAWS[self.law].level(z, self.k),)

    def backward(self, grad: Tensor, z: Tensor) -> tuple[Tensor]:
        return (grad.unsqueeze(-1) * self.weights(z),)

    def jvp(self, tangents: Sequence[Tensor], z: Tensor) -> Tensor:
        return (self.weights(z) * tangents[0]).sum(-1)

    def weights(self, z: Tensor) -> Tensor:
        """Return how much the level moves with each entry; the sum is 1."""
        if LAWS[self.law].exact:
            return LAWS[self.law].log_density(z - apply(self, z).unsqueeze(-1)).softmax(-1)
        least = next_largest(z.detach(), self.k)
        pairs = [(z == bound).to(z.dtype) for bound in (torch.zeros_like(least), least)]
        return sum(share / share.sum(-1, keepdim=True) for share in pairs) / 2  # type: ignore[return-value]  # two tensors
