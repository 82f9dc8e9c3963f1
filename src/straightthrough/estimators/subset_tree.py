"""The law of k of n, `p(z) ~ exp(<z, logits>)` over `|z| = k`, on a balanced tree.

Tilted by one number a row, so that independent entries of `p_i = sigmoid(logit_i - b)` sum to k on
average, it is those entries given that their sum is k. That sum has no likelier value than k, so
its probability is at least 1 / (n + 1), and products of probabilities serve where others need
logarithms: none underflows where it matters.

A node of the tree is the polynomial of how many of its leaves are chosen, cut off at k; a parent is
the product of its two children. Those of the first parent are the first nodes of the two halves of
the level below, and so on. Polynomials are `(J, ..., nodes, counts)`. J is 1, or the number of
components of a jet: the value, and its derivatives along some directions, one for each set of them.
The component of a set A has the number whose bits are A.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.precision import check_has_float64
from ..relaxations.level import FAR, logistic_level


def tilted(logits: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits less b, in float64; b; and which rows have an outcome, `(..., 1)` each."""
    check_has_float64("the law of subsets", logits.device)
    wide = logits.double()
    least = wide.topk(k, -1).values[..., -1:]
    valid = ~(wide.isnan() | wide.isposinf()).any(-1, keepdim=True) & ~least.isneginf()
    relative = torch.where(valid, wide - least, 0)
    if k < logits.shape[-1]:
        level = logistic_level(relative.clamp(min=-FAR), k).unsqueeze(-1)
    else:
        level = torch.full_like(least, -FAR)
    return relative - level, level + least, valid


def leaves(theta: Tensor, directions: Sequence[Tensor]) -> Tensor:
    """Return the polynomials of the entries and of as many sure zeros as a full tree needs.

    Of the weights of 0 and 1 the smaller one moves, by `exp(direction)` or its inverse (all that is
    multiplied by cancels), so that a rare entry may have a direction as large as it is rare.
    """
    n = theta.shape[-1]
    missing = (1 << (n - 1).bit_length()) - n
    theta = F.pad(theta, (0, missing), value=-torch.inf)
    rare = theta <= 0
    off, on = [torch.sigmoid(-theta)], [torch.sigmoid(theta)]
    for direction in directions:
        along = F.pad(direction, (0, missing))
        off += [each * torch.where(rare, 0, -along) for each in off]
        on += [each * torch.where(rare, along, 0) for each in on]
    return torch.stack([torch.stack(off), torch.stack(on)], -1)


def pairs(components: int) -> tuple[list[int], list[int], list[int]]:
    """Return what a product of jets sums: components of the one, of the other, and of the product.

    They are the pairs of disjoint sets.
    """
    found = [(a, b) for a in range(components) for b in range(components) if not a & b]
    return [a for a, _ in found], [b for _, b in found], [a | b for a, b in found]


def convolved(left: Tensor, right: Tensor, most: int) -> Tensor:
    """Return products of polynomials up to the power `most`."""
    first, second = left.shape[-1], right.shape[-1]
    powers = min(first + second - 1, most + 1)
    windows = F.pad(right, (first - 1, first - 1)).unfold(-1, first, 1)[..., :powers, :]
    return (windows * left.flip(-1).unsqueeze(-2)).sum(-1)


def correlated(outer: Tensor, sibling: Tensor, powers: int) -> Tensor:
    """Return `sum_i outer[j + i] sibling[i]`, j = 0, ..., powers - 1."""
    counts = sibling.shape[-1]
    padded = F.pad(outer, (0, powers + counts - 1 - outer.shape[-1]))
    return (padded.unfold(-1, counts, 1) * sibling.unsqueeze(-2)).sum(-1)


def summed(terms: Tensor, components: int) -> Tensor:
    """Return jets out of the terms of a product, which are in the order of `pairs`."""
    if components == 1:
        return terms
    into = torch.tensor(pairs(components)[2], device=terms.device)
    return terms.new_zeros(components, *terms.shape[1:]).index_add(0, into, terms)


def upward(leaf: Tensor, k: int) -> list[Tensor]:
    """Return the polynomials of every level, the leaves first, the root last."""
    levels, components = [leaf], leaf.shape[0]
    one, other, _ = pairs(components)
    while levels[-1].shape[-2] > 1:
        left, right = levels[-1].chunk(2, -2)
        if components > 1:
            left, right = left[one], right[other]
        levels.append(summed(convolved(left, right, k), components))
    return levels


def downward(levels: Sequence[Tensor], k: int) -> Tensor:
    """Return by how much each leaf's polynomial adds to the coefficient of k at the root."""
    root, components = levels[-1], levels[0].shape[0]
    one, other, _ = pairs(components)
    outer = torch.zeros_like(root)
    outer[(0, ..., min(k, root.shape[-1] - 1))] = 1
    for below in reversed(levels[:-1]):
        siblings = below.unflatten(-2, (2, -1)).flip(-3)
        outer = outer.unsqueeze(-3)
        if components > 1:
            outer, siblings = outer[one], siblings[other]
        outer = summed(correlated(outer, siblings, below.shape[-1]), components).flatten(-3, -2)
    return outer


def cumulant(logits: Tensor, k: int, directions: Sequence[Tensor]) -> Tensor:
    """Return the marginals of a row, or their derivative along directions: one, two, ...

    That along one is the covariance times it, that along two the third cumulant, and so on. It is
    NaN in a row without an outcome. In float64.
    """
    theta, _, valid = tilted(logits, k)
    leaf = leaves(theta, [d.double() for d in directions])
    levels, n, components = upward(leaf, k), logits.shape[-1], leaf.shape[0]
    outer = downward(levels, k)
    one, other, _ = pairs(components)
    shares = summed(leaf[one][..., :n, 1] * outer[other][..., :n, 1], components)
    total = levels[-1][..., 0, k].unsqueeze(-1)
    inverse = [1 / total[0]]
    for a in range(1, components):
        rest = sum(total[b] * inverse[a ^ b] for b in range(1, a + 1) if not b & ~a)
        inverse.append(-inverse[0] * rest)
    whole = components - 1
    found = sum(
        (shares[a] * inverse[whole ^ a] for a in range(components)), torch.zeros_like(theta)
    )
    return torch.where(valid, found, torch.nan)


def log_partition(logits: Tensor, k: int) -> Tensor:
    """Return the logarithm of the sum of `exp(<z, logits>)` over `|z| = k`; in float64."""
    theta, level, valid = tilted(logits, k)
    total = upward(leaves(theta, ()), k)[-1][0, ..., 0, k].log()
    found = total - F.logsigmoid(-theta).sum(-1) + k * level.squeeze(-1)
    return torch.where(valid.squeeze(-1), found, torch.nan)


def descend(levels: Sequence[Tensor], k: int, uniform: Tensor) -> Tensor:
    """Draw how many leaves of each node are chosen, from the root, which has k, to the leaves.

    `uniform` has one number a node, `(..., nodes)`: the root, its children, and so on.
    """
    count = torch.full_like(uniform[..., :1], k, dtype=torch.int64)
    first = 0
    for below in reversed(levels[:-1]):
        left, right = below[0].chunk(2, -2)
        counts = torch.arange(left.shape[-1], device=left.device)
        others = count.unsqueeze(-1) - counts
        possible = (others >= 0) & (others < right.shape[-1])
        weight = left * right.gather(-1, others.clamp(0, right.shape[-1] - 1)) * possible
        cumulative = weight.cumsum(-1)
        parents = count.shape[-1]
        bound = uniform[..., first : first + parents, None] * cumulative[..., -1:]
        # u < 1 - 2^-53 keeps the bound below the total, so a count of positive weight is found.
        chosen = (cumulative <= bound).sum(-1)
        count = torch.cat([chosen, count - chosen], -1)
        first += parents
    return count
