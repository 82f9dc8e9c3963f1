"""What people write without this library: each operator with its default rule, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from straightthrough.grids import Int


def substitute(hard: Tensor, soft: Tensor) -> Tensor:
    """Return the usual snippet: about the value of `hard`, with the gradient of `soft`."""
    return soft + (hard - soft).detach()


def sign(x: Tensor) -> Tensor:
    """The sign with the clipped identity's gradient."""
    return substitute(x.sign(), x.clamp(-1, 1))


def ternary(x: Tensor, threshold: float) -> Tensor:
    """The sign with a dead zone, with the clipped identity's gradient."""
    return substitute(x.sign() * (x.abs() > threshold), x.clamp(-1, 1))


def heaviside(x: Tensor, threshold: float) -> Tensor:
    """A step with the gradient of a sigmoid of slope 4."""
    return substitute((x > threshold).to(x.dtype), torch.sigmoid(4 * (x - threshold)))


def unchanged_gradient(hard: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `hard` with the gradient of the identity."""
    return lambda x, **arguments: substitute(hard(x, **arguments), x)


def fake_quantize(x: Tensor, scale: Tensor, grid: Int) -> Tensor:
    """An integer times its scale, with the gradient of what is clamped and not rounded."""
    v = x / scale
    q = v.detach().round().clamp(grid.least, grid.most)
    return substitute(q, torch.where(v.detach().round() == q, v, q)) * scale


def stochastic_round(x: Tensor) -> Tensor:
    """The floor of the input plus a uniform number, with the gradient of the identity."""
    return substitute((x + torch.rand_like(x)).floor(), x)


def stochastic_quantize(x: Tensor, scale: Tensor, grid: Int) -> Tensor:
    """The same in steps of a scale, clamped."""
    v = x / scale
    inside = (v.detach().round() >= grid.least) & (v.detach().round() <= grid.most)
    q = (v.detach() + torch.rand_like(x)).floor().clamp(grid.least, grid.most)
    return substitute(q, torch.where(inside, v, q)) * scale


def argmax(logits: Tensor) -> Tensor:
    """The one-hot of the largest entry with the gradient of a softmax."""
    hard = torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    return substitute(hard, logits.softmax(-1))


def topk(scores: Tensor, k: int) -> Tensor:
    """The k-hot of the largest entries with the gradient of sigmoids whose sum is k.

    Their threshold is found by bisection, and moved once more by a step that is differentiated.
    """
    hard = torch.zeros_like(scores).scatter(-1, scores.topk(k).indices, 1.0)
    with torch.no_grad():
        low = scores.amin(-1, keepdim=True) - 20
        high = scores.amax(-1, keepdim=True) + 20
        for _ in range(30):
            b = (low + high) / 2
            above = (scores - b).sigmoid().sum(-1, keepdim=True) > k
            low, high = torch.where(above, b, low), torch.where(above, high, b)
    y = (scores - low).sigmoid()
    slopes = (y * (1 - y)).sum(-1, keepdim=True).detach()
    return substitute(hard, (scores - low - (y.sum(-1, keepdim=True) - k) / slopes).sigmoid())


def in_gaps(scores: Tensor) -> Tensor:
    """Return scores in units of two mean gaps of a row, which is where ranks are smoothed."""
    low, high = scores.detach().aminmax(dim=-1, keepdim=True)
    return scores / (2 * (high - low) / (scores.shape[-1] - 1))


def rank(scores: Tensor) -> Tensor:
    """The rank with the gradient of isotonic regression by all means of neighbours."""
    place = torch.arange(scores.shape[-1])
    ordered, order = in_gaps(scores).sort(-1)
    sums = F.pad((ordered - place).cumsum(-1), (1, 0))
    means = sums[..., None, 1:] - sums[..., :-1, None]
    means = means / (place - place[:, None] + 1).clamp(min=1)
    least = means.masked_fill(place < place[:, None], math.inf).flip(-1).cummin(-1).values.flip(-1)
    fit = least.masked_fill(place < place[:, None], -math.inf).amax(-2)
    soft = torch.zeros_like(scores).scatter(-1, order, ordered - fit)
    return substitute(order.argsort(-1) + 1.0, soft)


def permutation(scores: Tensor) -> Tensor:
    """The matrix that sorts, with the gradient of SoftSort."""
    ordered, order = scores.sort(-1, descending=True)
    soft = -(ordered.unsqueeze(-1) - scores.unsqueeze(-2)).abs()
    return substitute(F.one_hot(order, scores.shape[-1]).to(soft.dtype), soft.softmax(-1))


def reorder(scores: Tensor, values: Tensor) -> Tensor:
    """That matrix times the values."""
    return permutation(scores) @ values


def assignment(scores: Tensor, iterations: int) -> Tensor:
    """The best assignment by scipy, with the gradient of Sinkhorn's iterations."""
    from scipy.optimize import linear_sum_assignment

    costs = -scores.detach().numpy()
    columns = [linear_sum_assignment(square)[1] for square in costs.reshape(-1, *costs.shape[-2:])]
    hard = F.one_hot(torch.from_numpy(np.stack(columns)), scores.shape[-1])
    x = scores
    for _ in range(iterations):
        x = x - x.logsumexp(-1, keepdim=True)
        x = x - x.logsumexp(-2, keepdim=True)
    return substitute(hard.to(x.dtype).reshape(x.shape), x.exp())


def solve(theta: Tensor, solver: Callable[[Tensor], Tensor]) -> Tensor:
    """The solution of a perturbed problem; the step that its gradient takes needs a class."""

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, theta: Tensor, moved: Tensor) -> Tensor:
            z = solver(theta + moved)
            ctx.save_for_backward(theta, moved, z)
            return z.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
            theta, moved, z = ctx.saved_tensors
            return z - solver(theta - grads[0] + moved), None

    noise = -torch.empty_like(theta).exponential_().log()
    return Step.apply(theta, noise)


def sample_topk(logits: Tensor, k: int) -> Tensor:
    """Gumbel top-k: the same of logits with Gumbels added."""
    return topk(logits - torch.empty_like(logits).exponential_().log(), k)


def sample_subset(logits: Tensor, k: int) -> Tensor:
    """An exact draw, class by class given those before it, with the gradient of the marginals.

    The weights of the classes from i on, of which j are chosen, are a table that is made from the
    last class to the first.
    """
    classes = logits.shape[-1]
    table = [torch.full((*logits.shape[:-1], k + 1), -torch.inf)]
    table[0][..., 0] = 0
    for i in reversed(range(classes)):
        with_it = F.pad(table[0][..., :-1], (1, 0), value=-torch.inf) + logits[..., i : i + 1]
        table.insert(0, torch.logaddexp(table[0], with_it))
    left, chosen = torch.full(logits.shape[:-1], k), []
    for i in range(classes):
        among, without = (table[j].detach().gather(-1, left[..., None])[..., 0] for j in (i, i + 1))
        chosen.append(torch.rand(left.shape) >= (without - among).exp())
        left = left - chosen[-1].long()
    hard = torch.stack(chosen, -1).to(logits.dtype)
    if not logits.requires_grad:
        return hard
    (marginals,) = torch.autograd.grad(table[0][..., k].sum(), logits, create_graph=True)
    return substitute(hard, marginals)


def categorical(logits: Tensor) -> Tensor:
    """A one-hot draw: there is no other differentiable one in torch."""
    return F.gumbel_softmax(logits, hard=True)


def categorical_integer(logits: Tensor) -> Tensor:
    """The number of a drawn class, as a product with the numbers."""
    return categorical(logits) @ torch.arange(logits.shape[-1], dtype=logits.dtype)


def categorical_lookup(logits: Tensor, table: Tensor) -> Tensor:
    """The row of a table that a draw names, as a matrix product."""
    return categorical(logits) @ table


def through(z: Tensor, q: Tensor) -> Tensor:
    """The second of a pair with the gradient of the first."""
    return substitute(q, z)


def vector_quantize(z: Tensor, codebook: Tensor) -> Tensor:
    """The nearest codeword by all distances."""
    index = torch.cdist(z, codebook).argmin(-1)
    return substitute(codebook[index], z)


def fsq(z: Tensor, levels: int) -> Tensor:
    """An odd number of levels of the bounded entries."""
    bounded = (levels - 1) / 2 * 1.001 * torch.tanh(z)
    return substitute(bounded.round(), bounded) / (levels // 2)


def lfq(z: Tensor) -> Tensor:
    """The signs with the gradient of the identity."""
    return substitute(z.sign(), z)


def bsq(z: Tensor) -> Tensor:
    """The signs over the root of their number with the gradient of a vector over its length."""
    unit = F.normalize(z, dim=-1)
    return substitute(unit.sign() / z.shape[-1] ** 0.5, unit)


def bernoulli(logits: Tensor) -> Tensor:
    """A 0/1 draw with the sigmoid's gradient."""
    p = torch.sigmoid(logits)
    return substitute((torch.rand_like(p) < p).to(p.dtype), p)


def binary_concrete(logits: Tensor, tau: float, hard: bool) -> Tensor:
    """The relaxed Bernoulli, made hard where it is asked for."""
    uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((logits + uniform.log() - (1 - uniform).log()) / tau)
    return substitute((soft > 0.5).to(soft.dtype), soft) if hard else soft


def hard_concrete(logits: Tensor, tau: float, gamma: float, zeta: float, hard: bool) -> Tensor:
    """The stretched and clamped gate, made hard where it is asked for."""
    soft = binary_concrete(logits, tau, hard=False)
    gate = (soft * (zeta - gamma) + gamma).clamp(0, 1)
    return substitute((soft > 0.5).to(soft.dtype), gate) if hard else gate


def poisson(log_rate: Tensor) -> Tensor:
    """A Poisson draw with the mean's gradient."""
    rate = log_rate.exp()
    return substitute(torch.poisson(rate.detach()), rate)


def binomial(logits: Tensor, total_count: int) -> Tensor:
    """A binomial draw with the mean's gradient."""
    p = torch.sigmoid(logits)
    count = torch.full_like(p, total_count)
    return substitute(torch.binomial(count, p.detach()), total_count * p)


def geometric(logits: Tensor) -> Tensor:
    """A geometric draw with the mean's gradient."""
    law = torch.distributions.Geometric(logits=logits, validate_args=False)
    return substitute(law.sample(), torch.exp(-logits))


def negative_binomial(logits: Tensor, total_count: float) -> Tensor:
    """A negative binomial draw with the mean's gradient."""
    law = torch.distributions.NegativeBinomial(total_count, logits=logits, validate_args=False)
    return substitute(law.sample(), total_count * logits.exp())


def masked_linear(logits: Tensor, weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A linear layer whose weights are multiplied by soft hard-concrete gates."""
    return F.linear(x, weight * hard_concrete(logits, 2 / 3, -0.1, 1.1, hard=False), bias)


PLAIN: dict[str, Callable[..., Any]] = {
    "sign": sign,
    "heaviside": heaviside,
    "round": unchanged_gradient(torch.round),
    "floor": unchanged_gradient(torch.floor),
    "ceil": unchanged_gradient(torch.ceil),
    "trunc": unchanged_gradient(torch.trunc),
    "clamp": unchanged_gradient(torch.clamp),
    "ternary": ternary,
    "categorical": categorical,
    "categorical_integer": categorical_integer,
    "categorical_lookup": categorical_lookup,
    "argmax": argmax,
    "gumbel_softmax": F.gumbel_softmax,
    "bernoulli": bernoulli,
    "binary_concrete": binary_concrete,
    "hard_concrete": hard_concrete,
    "poisson": poisson,
    "binomial": binomial,
    "geometric": geometric,
    "negative_binomial": negative_binomial,
    "topk": topk,
    "sample_topk": sample_topk,
    "sample_subset": sample_subset,
    "solve": solve,
    "rank": rank,
    "permutation": permutation,
    "reorder": reorder,
    "assignment": assignment,
    "fake_quantize": fake_quantize,
    "stochastic_quantize": stochastic_quantize,
    "stochastic_round": stochastic_round,
    "through": through,
    "vector_quantize": vector_quantize,
    "fsq": fsq,
    "lfq": lfq,
    "bsq": bsq,
}
"""By operator; each takes the inputs and the arguments of the operator's record."""
