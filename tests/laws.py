"""Families of counts at parameters: what draws them, and torch's and scipy's words for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

import straightthrough as st
from straightthrough.ops.counts import families
from straightthrough.ops.counts.families import Family


@dataclass(frozen=True)
class Law:
    """A family at parameters, what draws it, and torch's and scipy's words for it."""

    name: str
    family: Family
    x: float
    call: Callable[..., Tensor]
    theirs: Callable[[Tensor], torch.distributions.Distribution]
    scipy: stats.rv_discrete

    def __str__(self) -> str:
        return f"{self.name}-{self.x:.3g}"

    def draw(self, *shape: int, dtype: torch.dtype = torch.float64, **options: object) -> Tensor:
        return self.call(torch.full(shape, self.x, dtype=dtype), **options)


D = torch.distributions


def poisson(rate: float) -> list[Law]:
    scipy = stats.poisson(rate)
    return [
        Law("rate", families.Poisson(True), rate, st.poisson, D.Poisson, scipy),
        Law(
            "log_rate",
            families.Poisson(False),
            math.log(rate),
            lambda x, **options: st.poisson(log_rate=x, **options),
            lambda x: D.Poisson(x.exp()),
            scipy,
        ),
    ]


def of_odds(
    operator: Callable[..., Tensor],
    family: type[Family],
    count: float,
    theirs: Callable[..., torch.distributions.Distribution],
    p: float,
    scipy: stats.rv_discrete,
    **arguments: float,
) -> list[Law]:
    def by(keyword: str) -> Callable[..., Tensor]:
        return lambda x, **options: operator(**{keyword: x}, **arguments, **options)

    return [
        Law(
            f"{operator.__name__}-{arguments}-{keyword}",
            family(keyword == "probs", count),
            x,
            by(keyword),
            lambda x, keyword=keyword: theirs(**{keyword: x}, **arguments),
            scipy,
        )
        for keyword, x in (("probs", p), ("logits", math.log(p / (1 - p))))
    ]


def binomial(n: int, p: float) -> list[Law]:
    scipy = stats.binom(n, p)
    return of_odds(st.binomial, families.Binomial, n, D.Binomial, p, scipy, total_count=n)


def geometric(p: float) -> list[Law]:
    scipy = stats.geom(p, loc=-1)
    return of_odds(st.geometric, families.Geometric, 1, D.Geometric, p, scipy)


def negative_binomial(r: float, p: float) -> list[Law]:
    family, scipy = families.NegativeBinomial, stats.nbinom(r, 1 - p)
    theirs = D.NegativeBinomial
    return of_odds(st.negative_binomial, family, r, theirs, p, scipy, total_count=r)
