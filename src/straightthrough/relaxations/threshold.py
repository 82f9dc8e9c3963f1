"""Relaxations of top-k whose entries share one threshold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.engine import apply
from ..core.errors import ArgumentError, check_positive
from ..core.kernels import kernel
from ..core.precision import cast, compute_dtype, in_compute_dtype, widened
from ..core.registry import rule
from ..core.rules import Relaxation
from .jacobian import relative_to
from .level import LAWS, Level


def relative(x: Tensor, k: int, tau: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return `x` relative to its k-th largest, over tau; that; and which rows are certain.

    A row is, and is 0 then, where nothing finite parts the chosen from the others.
    """
    largest = x.detach().topk(min(k + 1, x.shape[-1]), -1).values
    least, after = largest[..., k - 1 : k], largest[..., k:]
    if k == x.shape[-1]:
        after = torch.full_like(least, -torch.inf)
    certain = ~((after - least) / tau).isfinite()
    return ((x - least) / tau).masked_fill(certain, 0), least, certain


def product(
    name: str, x: Tensor, grad: Tensor, k: int, tau: Any, transposed: bool = True
) -> Tensor:
    """Return the transpose of the Jacobian of a law's `soft_topk`, or that itself, times `grad`."""
    unordered = x.isnan().any(-1, keepdim=True)
    if k == x.shape[-1]:
        return torch.zeros_like(grad).masked_fill(unordered, torch.nan)
    z, _, certain = relative(x, k, tau)
    level, law = Level(name, k), LAWS[name]
    f, w = law.log_density(z - apply(level, z).unsqueeze(-1)).exp(), level.weights(z)
    if law.exact:  # symmetric, and blind to a constant in grad, which would cost digits
        grad = relative_to(w.argmax(-1), grad)
    moved = f * grad
    if transposed and not law.exact:
        pulled = (moved - w * moved.sum(-1, keepdim=True)) / tau
    else:
        pulled = (moved - f * (w * grad).sum(-1, keepdim=True)) / tau
    return pulled.masked_fill(certain, 0).masked_fill(unordered, torch.nan)


@kernel("(Tensor x, Tensor grad, int k, float tau) -> Tensor")
@widened
def logistic_backward(x: Tensor, grad: Tensor, k: int, tau: float) -> Tensor:
    """`f (g - <f, g> / sum f) / tau`, f the slopes of sigmoids that sum to k."""
    return product("logistic", x, grad, k, tau)


@rule("midpoint", law="midpoint")
@rule("laplace", law="laplace")
@rule("logistic", law="logistic")
@dataclass(frozen=True)
class Threshold(Relaxation):
    """`F((x - b) / tau)`, F a distribution function, b one threshold for the row.

    With `law="logistic"`, F the sigmoid, and `law="laplace"`, b is where the row's sum is k. With
    `law="midpoint"`, F the sigmoid again, b lies half way between the k-th and the next largest
    entry, which is the cheapest; the sum is then k only about. With `f = F'((x - b) / tau)` and w
    how b moves with each entry, `f / sum f` for the first two, a half at both neighbours (ties
    share) for the third, the Jacobian is `diag(f) (I - 1 w^T) / tau`.

    Every entry lies between 0 and 1, whatever k, unlike those of k times a softmax. Scores that
    leave a gap of many tau at the threshold have a gradient of all but 0, and where the choice is
    certain (k infinite scores, or k of k allowed) it is 0.

    Args:
        law: `"logistic"`, `"laplace"` or `"midpoint"`; each is a shorthand too.
        tau: temperature, > 0.

    Cost: `"logistic"`, eight steps of Newton's method, a sigmoid an entry each; `"laplace"`, a
    sort; `"midpoint"`, the k + 1 largest.

    References:
        Amos, Koltun, Kolter, "The limited multi-label projection layer", 2019 (logistic).
        Struski, Bednarczyk, Podolak, Tabor, "LapSum: one method to differentiate them all: ranking,
        sorting and top-k selection", 2025 (Laplace). Zhu et al., "Differentiable fast top-K
        selection for large-scale recommendation", 2025 (midpoint).

    Example:
        >>> rule = st.relaxations.Threshold("laplace", tau=0.5)
        >>> rule.soft_topk(torch.tensor([0.0, 1.0, 2.0, 3.0]), 2)
        tensor([0.0249, 0.1839, 0.8161, 0.9751])
    """

    law: str = "logistic"
    tau: float = 1.0

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            known = ", ".join(map(repr, LAWS))
            raise ArgumentError(f"law must be one of {known}, got {self.law!r}")
        check_positive("tau", self.tau)

    def soft(self, x: Tensor) -> Tensor:
        return self.soft_topk(x, 1)

    def soft_topk(self, x: Tensor, k: int) -> Tensor:
        z, least, certain = relative(x, k, self.tau)
        level = apply(Level(self.law, k), z).unsqueeze(-1) if k < x.shape[-1] else 0
        chosen = (x >= least).to(x.dtype)
        share = (k / chosen.sum(-1, keepdim=True)).masked_fill(least.isneginf(), torch.nan)
        return torch.where(certain, chosen * share, LAWS[self.law].value(z - level))

    def backward(self, x: Tensor, grad: Tensor, k: int = 1) -> Tensor:
        if self._overridden:
            return super().backward(x, grad, k)
        if self.law == "logistic" and x.dtype == grad.dtype:
            return logistic_backward(x, grad, k, self.tau)
        return self._product(x, grad, k, transposed=True)

    def forward(self, x: Tensor, tangent: Tensor, k: int = 1) -> Tensor:
        if self._overridden:
            return super().forward(x, tangent, k)
        return self._product(x, tangent, k, transposed=False)

    def _product(self, x: Tensor, grad: Tensor, k: int, transposed: bool) -> Tensor:
        tau = cast(self.tau, compute_dtype(x.dtype))
        return in_compute_dtype(partial(product, self.law), x, grad, k, tau, transposed)

    @property
    def _overridden(self) -> bool:
        """Whether a subclass has a `soft` or `soft_topk` of its own."""
        own = ((type(self).soft, Threshold.soft), (type(self).soft_topk, Threshold.soft_topk))
        return any(one is not other for one, other in own)
