"""The estimator of minimum variance for a bound on its bias."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import check_positive
from ..core.kernels import kernel
from ..core.noise import Noise, in_blocks
from ..core.precision import check_has_float64, narrowed, widest
from ..core.registry import rule
from ..relaxations.jacobian import relative_to, softmax_jacobian_product, tempered
from .categorical import CategoricalEstimator, reference, takes_half
from .mve_equations import Solve, by_exponentials, exponentials, written_out

FEW = 64
"""Classes up to which the equations are written out."""


@kernel("(Tensor logits, Tensor index, Tensor grad, float epsilon) -> Tensor")
@reference
def mve(logits: Tensor, index: Tensor, grad: Tensor, epsilon: Any) -> Tensor:
    """`S^T g` of few classes."""
    width = logits.shape[-1] ** 2
    return _gradient(written_out, width, logits, index, grad, epsilon)


@reference
def mve_of_many(logits: Tensor, index: Tensor, grad: Tensor, epsilon: Any) -> Tensor:
    """The same of many."""
    width = logits.shape[-1] * len(exponentials(epsilon)[0])
    return _gradient(by_exponentials, width, logits, index, grad, epsilon)


def _gradient(
    equations: Callable[..., tuple[Tensor, Tensor, Solve]],
    width: int,
    logits: Tensor,
    index: Tensor,
    grad: Tensor,
    epsilon: Any,
) -> Tensor:
    check_has_float64("MVE", logits.device)
    classes = logits.shape[-1]

    def block(first: int, logits: Tensor, index: Tensor, grad: Tensor) -> Tensor:
        p, g = tempered(logits.double(), 1.0), relative_to(index, grad.double())
        return _solved(equations, p, index, g, epsilon)

    rows = (logits.reshape(-1, classes), index.reshape(-1), grad.reshape(-1, classes))
    return narrowed(in_blocks(block, *rows, width=width).reshape(logits.shape), logits.dtype)


def _solved(
    equations: Callable[..., tuple[Tensor, Tensor, Solve]],
    p: Tensor,
    index: Tensor,
    g: Tensor,
    epsilon: Any,
) -> Tensor:
    """Return `S^T g` of rows `(rows, C)` in float64, g being 0 at the outcome.

    It is `J diag(1/2 + half) y`, `half_i = epsilon / (2 epsilon + 4 p_i)`, where `A y = u`.
    """
    at_x = p.gather(-1, index.unsqueeze(-1))
    weight = g / (epsilon + p + at_x)
    u = (weight * (p + epsilon)).scatter(
        -1, index.unsqueeze(-1), -(weight * p).sum(-1, keepdim=True)
    )
    sums, off, solve = equations(p, epsilon)

    # B = A + d d^T / sum(d), d the diagonal of A, is well conditioned. As B 1 = epsilon sums + d,
    # y = b + eta (1 - a); eta follows from the sum of the equations, <epsilon sums, y> = sum(u),
    # and neither the shift by eta nor a constant of the row is added where J would remove it.
    b, a = solve(epsilon * sums + off, torch.stack([u, epsilon * sums], -1)).unbind(-1)
    eta = (weight - sums * b).sum(-1, keepdim=True) / (sums * (1 - a)).sum(-1, keepdim=True)
    half = epsilon / (2 * epsilon + 4 * p)
    z = (b - eta * a) / 2 + half * (b + eta * (1 - a))
    return softmax_jacobian_product(p, z - z.gather(-1, p.argmax(-1, keepdim=True)))


@rule("mve")
@dataclass(frozen=True)
class MVE(CategoricalEstimator):
    """`S^T g`, S the matrices of least variance plus `tau` times the squared bias.

    With t = `tau`, x the outcome, p the probabilities and `J = diag(p) - p p^T`, the rows of S are
    `S_i = ((1 + t p_i) v_i - t p_i v_x + 1[i = x] t J_x) / (1 + t (p_i + p_x))`, and v solves
    `A v = diag((1 + t p) / (1 + 2 t p)) J`, where `A_ij = -t p_i p_j / (1 + t (p_i + p_j))` beside
    the diagonal and row i of A sums to `sum_j p_j / (1 + t (p_i + p_j))`.

    Of the rules that are unbiased for linear losses it minimises `E|S|^2 + t E|bias|^2`, the bias
    that on `z^T Q z / 2`, Q symmetric with normal entries of variance 1, and 2 on the diagonal. As
    `tau` goes to 0 it becomes `StraightThrough()`; as it grows, the rule of least variance among
    those that are unbiased for quadratic losses too.

    A is all but singular at a large `tau`, and where probabilities are 0 or 1. The direction that
    makes it so, that of equal entries, is split off, and the rest is solved in float64: the error
    is that of rounding, whatever `tau` and the probabilities (above 64 classes 1e-11, and
    probabilities below 1e-40 count as that).

    Args:
        tau: the weight of the bias, > 0; the smaller, the less variance and the more bias.

    For C = 2 it is a formula of p, which `st.bernoulli` takes. Beyond, none in a few sums over the
    classes exists, such as the other rules have: m sums give S mixed derivatives, between two sets
    of classes, of rank at most m, and these have full rank (decided exactly for 6, 8, 10 and 12
    classes, which want at least 2, 3, 4 and 5 sums: tests/estimators/test_mve_sums.py). As `tau`
    grows, A becomes the Laplacian of the complete graph with conductances `p_i p_j / (p_i + p_j)`,
    and the denominator of v the sum over the graph's `C^(C - 2)` spanning trees.

    Cost: up to 64 classes the solution of C equations a row, C^3 / 3 operations; by a CPU kernel as
    many rows at once as a vector has lanes. Beyond that sums of K exponentials stand for A, K about
    90 at the default `tau` and growing with its logarithm: `C K^2` operations a row on `C K`
    numbers, some rows at a time. No noise.

    Higher order: differentiates the formula, `g` and the outcome held.

    References:
        Hooper, Shekhovtsov, "Generalized and optimal straight-through estimators", 2026.

    Example:
        >>> rule = st.estimators.MVE(tau=1.0)
        >>> rule.vjp(torch.zeros(2), torch.tensor(0), torch.tensor([1.0, 0.0]))
        tensor([ 0.2500, -0.2500])
    """

    tau: float = 1e6

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)

    @property
    def epsilon(self) -> Any:
        """1 / tau, as far as it makes a difference; a tensor where tau is one."""
        if isinstance(self.tau, Tensor):
            wide = widest(self.tau.device)
            return (1 / self.tau.to(wide)).clamp(max=1e30)
        return min(1 / self.tau, 1e30)

    @takes_half
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        formula = mve if logits.shape[-1] <= FEW else mve_of_many
        return formula(logits, index, grad, self.epsilon)

    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        wide = x.to(widest(x.device))
        p, q = torch.sigmoid(wide), torch.sigmoid(-wide)
        ratio = (self.epsilon + 2 * torch.where(outcome, q, p)) / (self.epsilon + 4 * p * q)
        return (p * q * ratio).to(x.dtype) * grad
