"""Tensors of any kind: ordinary, tied, extreme; of any shape, however they lie in memory."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from straightthrough.core.precision import compute_dtype

MOST = 4096
"""Elements of a tensor, at most."""


@dataclass(frozen=True, eq=False)
class Source:
    """Where the choices of one case come from: two generators of the same seed."""

    choices: random.Random
    noise: torch.Generator
    dtype: torch.dtype

    def chance(self, probability: float) -> bool:
        return self.choices.random() < probability

    def scale(self, decades: float) -> float:
        return 10 ** self.choices.uniform(-decades, decades)

    def up_to(self, most: float) -> int:
        """Return a whole number from 1 on, as likely small as large."""
        return int(2 ** self.choices.uniform(0, math.log2(most + 1)))

    def normal(self, shape: list[int]) -> Tensor:
        return torch.randn(shape, generator=self.noise, dtype=torch.float64)

    def uniform(self, shape: list[int]) -> Tensor:
        return torch.rand(shape, generator=self.noise, dtype=torch.float64)


def ordinary(source: Source, shape: list[int]) -> Tensor:
    return source.normal(shape) * source.scale(2)


def tied(source: Source, shape: list[int]) -> Tensor:
    return (3 * source.normal(shape)).round() / 2


def spread(source: Source, shape: list[int]) -> Tensor:
    """Return values of every size that the dtype has."""
    limits = torch.finfo(source.dtype)
    low, high = math.log2(limits.tiny * limits.eps), math.log2(limits.max)
    size = torch.exp2(low + (high - low) * source.uniform(shape)).clamp(max=limits.max)
    return size * source.normal(shape).sign()


def extreme(source: Source, shape: list[int]) -> Tensor:
    limits = torch.finfo(source.dtype)
    sizes = [0.0, limits.tiny * limits.eps, limits.tiny, 0.5, 1.0, 1 + limits.eps, limits.max]
    signed = torch.tensor([*sizes, *(-size for size in sizes)], dtype=torch.float64)
    return signed[(source.uniform(shape) * len(signed)).long()]


def mixed(source: Source, shape: list[int]) -> Tensor:
    return torch.where(source.uniform(shape) < 0.2, extreme(source, shape), ordinary(source, shape))


KINDS: tuple[Callable[[Source, list[int]], Tensor], ...] = (ordinary, tied, spread, extreme, mixed)


def finite(source: Source, shape: list[int]) -> Tensor:
    """Return finite values of one kind."""
    return source.choices.choice(KINDS)(source, shape).to(source.dtype)


def moderate(source: Source, shape: list[int]) -> Tensor:
    """Return the same, so that a product of two of them is a number of what it is computed in."""
    most = min(torch.finfo(source.dtype).max, torch.finfo(compute_dtype(source.dtype)).max ** 0.5)
    return finite(source, shape).clamp(-most, most)


def wild(source: Source, shape: list[int]) -> Tensor:
    """Return the same, sometimes with a few infinities or NaN among them."""
    values = finite(source, shape)
    for value, probability in ((-math.inf, 0.3), (math.inf, 0.15), (math.nan, 0.1)):
        if source.chance(probability):
            rate = source.choices.choice((0.01, 0.3, 0.9))
            values[source.uniform(shape) < rate] = value
    return values


def batch(source: Source, room: int) -> list[int]:
    """Return a shape of up to three dimensions and `room` elements, sometimes of none."""
    shape = []
    for _ in range(source.choices.randrange(4)):
        size = 0 if source.chance(0.03) else source.up_to(max(room, 1))
        shape.append(size)
        room //= max(size, 1)
    return shape


def contiguous(source: Source, x: Tensor) -> Tensor:
    return x


def permuted(source: Source, x: Tensor) -> Tensor:
    order = source.choices.sample(range(x.ndim), x.ndim)
    back = [order.index(dim) for dim in range(x.ndim)]
    return x.permute(order).contiguous().permute(back)


def expanded(source: Source, x: Tensor) -> Tensor:
    if x.numel() == 0 or x.ndim == 0:
        return x
    dim = source.choices.randrange(x.ndim)
    return x.narrow(dim, 0, 1).expand(x.shape)


def sliced(source: Source, x: Tensor) -> Tensor:
    if x.ndim == 0:
        return x
    dim = source.choices.randrange(x.ndim)
    gaps = torch.stack([torch.full_like(x, math.nan), x], dim + 1).flatten(dim, dim + 1)
    return gaps[(slice(None),) * dim + (slice(1, None, 2),)]


LAYOUTS: tuple[Callable[[Source, Tensor], Tensor], ...] = (contiguous, permuted, expanded, sliced)


def laid_out(source: Source, x: Tensor) -> tuple[Tensor, str]:
    """Return values of the shape of `x` in some layout, and the layout's name."""
    layout = source.choices.choice(LAYOUTS)
    return layout(source, x), layout.__name__
