"""Counts: Poisson, binomial, geometric and negative binomial draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ...core.engine import apply
from ...core.errors import (
    ArgumentError,
    Number,
    as_int,
    check_number,
    check_outcomes,
    check_positive,
)
from ...core.noise import Seed, make_seed
from ...core.outcomes import Count
from ...core.registry import operator, resolve
from ...core.signature import Input
from ...estimators import CountEstimator, Fini
from ..bernoulli.api import parameter
from . import families, specification
from .families import TRIALS, Family
from .operation import CountDraw


def poisson_family(rate: Tensor | None, log_rate: Tensor | None) -> tuple[Tensor, Family]:
    """Return the parameter that was given, and the family of counts that it belongs to."""
    x, direct = parameter(log_rate, rate, ("log_rate", "rate"))
    return x, families.Poisson(direct)


def binomial_family(
    logits: Tensor | None, probs: Tensor | None, total_count: int | Tensor
) -> tuple[Tensor, Family]:
    """Likewise."""
    trials = check_trials("total_count", total_count)
    x, direct = parameter(logits, probs)
    return x, families.Binomial(direct, trials)


def check_trials(name: str, value: object) -> Any:
    """Return the number of trials that `value` is, a 0-d tensor's too, or raise `ArgumentError`."""
    number = as_int(value)
    if isinstance(value, Tensor) and not value.is_floating_point():
        number = as_int(_of_python(name, check_number(name, value)))
    if number is None or not 1 <= number <= TRIALS:
        raise ArgumentError(f"{name} must be an int in [1, {TRIALS}], got {value!r}")
    return number


def geometric_family(logits: Tensor | None, probs: Tensor | None) -> tuple[Tensor, Family]:
    """Likewise."""
    x, direct = parameter(logits, probs)
    return x, families.Geometric(direct, 1)


def negative_binomial_family(
    logits: Tensor | None, probs: Tensor | None, total_count: float
) -> tuple[Tensor, Family]:
    """Likewise."""
    total_count = _of_python("total_count", check_positive("total_count", total_count))
    x, direct = parameter(logits, probs)
    return x, families.NegativeBinomial(direct, total_count)


def _of_python(name: str, number: Any) -> float:
    """Return a number that shapes a draw, which a graph or a transform can't hold as a tensor."""
    if not isinstance(number, Tensor):
        return number
    try:
        if not is_compiling():
            return check_positive(name, number.item())
    except RuntimeError:  # of vmap, where it has a value for each example
        pass
    raise ArgumentError(
        f"{name} must be a number and no tensor in compiled code, and one for all examples in "
        f"vmap; pass {name}.item(), or call once for each"
    )


NO_COUNT = "a NaN, or a parameter outside its range"


def _draw(
    name: str,
    of: tuple[Tensor, Family],
    estimator: CountEstimator | str,
    fields: Mapping[str, Number],
    generator: torch.Generator | None,
    seed: int | Tensor | Seed | None,
) -> Tensor:
    x, family = of
    rule = resolve("estimator", estimator, CountEstimator, fields=fields)
    value, place = make_seed(seed, generator, x)
    y = apply(CountDraw(rule, family, place), x, value)
    check_outcomes(name, lambda: y.isnan(), NO_COUNT)
    return y


_COMMON = {
    "family": "counts",
    "outcome": Count(),
    "rule": "estimator",
    "fits": (CountEstimator,),
    "default": Fini(),
    "saved_bytes": lambda rule, x: 2 * x.nbytes,
}
_OF_LOGITS = {"inputs": (Input("logits"),), **_COMMON}


@operator(
    inputs=(Input("log_rate"),),
    expected=specification.mean_of(specification.poisson),
    gradient=specification.gradient_of(specification.poisson, lambda log_rate: 1.0),
    **_COMMON,
)
def poisson(
    rate: Tensor | None = None,
    estimator: CountEstimator | str = "fini",
    *,
    log_rate: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """A Poisson count an element, with an estimator's gradient.

    Forward: `y` is the smallest count whose distribution function is at least u, one 53-bit
    uniform an element. Backward: with l the rate, `g w(y)` for `log_rate`, of order 2 (the
    default) `w = (y + l) / 2`, of order 3
    `w = 5 l / 12 + (8 l + 1) y / (12 l) - y^2 / (12 l)`; for `rate` that over l.

    Args:
        rate: any shape; the mean, in [0, 2^20]; floating.
        estimator: a `Fini`, or `"fini"`, the one of order 2.
        log_rate: any shape; its logarithm; exactly one of it and `rate`.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields, as `order=3`.

    Returns:
        Counts in the shape, dtype and device of the parameter; those that the dtype does not
        hold (above 256 in bfloat16, 2048 in float16, 2^24 in float32) are rounded to it.

    Raises:
        DtypeError: if the parameter is not floating.
        ArgumentError: if not exactly one parameter is given, the estimator is unknown, or both
            `seed` and `generator` are given.

    Edge cases: rate 0 is certain. NaN, a negative rate, and one above 2^20 (in float16 above
    1023, where counts would overflow) have no outcome and give NaN (in `st.strict()` an error).

    Higher order: double backward and forward mode differentiate the rule's formula, the count
    held.

    Cost: up to a rate of 32 a search from 0 by a CPU kernel, tens of nanoseconds an element; beyond
    it, and elsewhere, a search near the mean, up to half a microsecond, whatever the rate. The
    parameter and the count are saved. The law is exact to 1e-10 (where there is no kernel 4e-10,
    the precision of `torch.special.gammaincc`).

    Example:
        >>> log_rate = torch.zeros(5, requires_grad=True)
        >>> y = st.poisson(log_rate=log_rate, seed=2)
        >>> y.sum().backward()
        >>> torch.equal(log_rate.grad, (y.detach() + 1) / 2)
        True

    References:
        Giles, "Algorithm 955: approximation of the inverse Poisson cumulative distribution
        function", 2016 (the normal approximation that the search starts from).
    """
    return _draw("poisson", poisson_family(rate, log_rate), estimator, fields, generator, seed)


@operator(
    expected=specification.mean_of(specification.binomial, bounded=True),
    gradient=specification.gradient_of(specification.binomial, lambda logits: 1.0),
    arguments={"total_count": 10},
    **_OF_LOGITS,
)
def binomial(
    logits: Tensor | None = None,
    estimator: CountEstimator | str = "fini",
    *,
    probs: Tensor | None = None,
    total_count: int | Tensor,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """A binomial count an element, with an estimator's gradient.

    Forward: `y`, the successes among n trials of probability p, by inverse CDF with one 53-bit
    uniform an element. Backward: with `q = 1 - p` and `m = n - y` failures, `g w(y)` for `logits`,
    of order 2 (the default) `w = (q y + p m) / 2`, of order 3 that
    `+ y m / (6 (n - 1)) - (y (y - 1) q / p + m (m - 1) p / q) / (12 (n - 1))`; for `probs` that
    over `p q`.

    Args:
        logits: any shape; the log-odds of a success; floating.
        estimator: a `Fini`, or `"fini"`, the one of order 2.
        probs: any shape; the probability of one, in [0, 1]; exactly one of it and `logits`.
        total_count: the number n of trials, an int in [1, 32768] or, but in compiled code, a 0-d
            tensor of one.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields, as `order=3`.

    Returns:
        Counts in the shape, dtype and device of the parameter; those that the dtype does not
        hold (above 256 in bfloat16, 2048 in float16) are rounded to it.

    Raises:
        DtypeError: if the parameter is not floating.
        ArgumentError: if not exactly one parameter is given, `total_count` lies outside its range,
            the estimator is unknown, or both `seed` and `generator` are given.

    Edge cases: p = 0 and p = 1 are certain. NaN, and a probability outside [0, 1], give NaN (in
    `st.strict()` an error). One trial has the law of `st.bernoulli`, and by order 2 the
    gradient of its `ReinMax` (which to `probs` of 0 and 1 is 0 there, and a half here); it has two
    outcomes and no third order, so order 3 is order 2 there.

    Higher order: double backward and forward mode differentiate the rule's formula, the count
    held.

    Cost: a search from 0 or, where n p and n q are large, near the mean, by a CPU kernel, tens to
    hundreds of nanoseconds an element; elsewhere `min(n, 9 sqrt(n)) + 1` exponentials, in blocks
    that stay in the cache (compiled code takes them at once). The parameter and the count are
    saved. The law is exact to 1e-10.

    Example:
        >>> st.binomial(probs=torch.tensor([0.0, 0.5, 1.0]), total_count=4, seed=3)
        tensor([0., 2., 4.])

    References:
        Liu et al., "Bridging discrete and backpropagation", 2023 (order 2 of one trial).
    """
    of = binomial_family(logits, probs, total_count)
    return _draw("binomial", of, estimator, fields, generator, seed)


@operator(
    expected=specification.mean_of(specification.geometric),
    gradient=specification.gradient_of(specification.geometric, lambda x: -torch.sigmoid(x)),
    **_OF_LOGITS,
)
def geometric(
    logits: Tensor | None = None,
    estimator: CountEstimator | str = "fini",
    *,
    probs: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """A geometric count an element, with an estimator's gradient.

    Forward: `y = floor(log(u) / log(1 - p))`, the failures before the first success of probability
    p, u one 53-bit uniform an element. Backward: with `q = 1 - p`, `-g w(y)` for `logits`, of order
    2 (the default) `w = (y + q (y + 1)) / 2`, of order 3 that
    `- p (y (y - 1) / q - 2 y (y + 1) + q (y + 1) (y + 2)) / 24`; for `probs` that over `p q`.

    Args:
        logits: any shape; the log-odds of a success; floating.
        estimator: a `Fini`, or `"fini"`, the one of order 2.
        probs: any shape; the probability of one, in (0, 1]; exactly one of it and `logits`.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields, as `order=3`.

    Returns:
        Counts from 0 in the shape, dtype and device of the parameter; those that the dtype does
        not hold (above 256 in bfloat16, 2048 in float16, 2^24 in float32) are rounded to it.

    Raises:
        DtypeError: if the parameter is not floating.
        ArgumentError: if not exactly one parameter is given, the estimator is unknown, or both
            `seed` and `generator` are given.

    Edge cases: p = 1 is certain. NaN, a probability outside (0, 1], and one with a mean `q / p`
    above 2^20 (in float16 above 1023, where counts would overflow) give NaN (in `st.strict()` an
    error).

    Higher order: double backward and forward mode differentiate the rule's formula, the count
    held.

    Cost: two logarithms an element in float64; the parameter and the count are saved. The law is
    exact to 1e-15.

    Example:
        >>> st.geometric(probs=torch.tensor([0.1, 0.5, 1.0]), seed=0)
        tensor([8., 0., 0.])
    """
    return _draw("geometric", geometric_family(logits, probs), estimator, fields, generator, seed)


@operator(
    expected=specification.mean_of(specification.negative_binomial),
    gradient=specification.gradient_of(
        specification.negative_binomial, lambda logits: torch.sigmoid(-logits)
    ),
    arguments={"total_count": 2.5},
    **_OF_LOGITS,
)
def negative_binomial(
    logits: Tensor | None = None,
    estimator: CountEstimator | str = "fini",
    *,
    probs: Tensor | None = None,
    total_count: float,
    generator: torch.Generator | None = None,
    seed: int | Tensor | Seed | None = None,
    **fields: Number,
) -> Tensor:
    """A negative binomial count an element, with an estimator's gradient.

    Forward: `y`, the successes of probability p before r failures: the smallest count whose
    distribution function is at least u, one 53-bit uniform an element, where the mean is at most 16
    and p at most 3/4; beyond that a Poisson draw of the rate `G p / (1 - p)`, G a gamma draw of the
    shape r and the scale 1. Backward: with `q = 1 - p` and
    `s = y + r`, `g w(y)` for `logits`, of order 2 (the default) `w = (y + p s) / 2`, of order 3
    that `- q (y (y - 1) / p - 2 y s + p s (s + 1)) / (12 (r + 1))`; for `probs` that over `p q`.

    Parameters are those of `torch.distributions.NegativeBinomial`: the mean is `r p / q`, the
    variance that over q. For a mean m, `logits = log(m / r)`.

    Args:
        logits: any shape; the log-odds of a success; floating.
        estimator: a `Fini`, or `"fini"`, the one of order 2.
        probs: any shape; the probability of one, in [0, 1); exactly one of it and `logits`.
        total_count: the number r of failures, a number > 0; also called dispersion, or size.
        generator: draws the seed; torch's default generator when neither is given.
        seed: an int, a 0-d int64 tensor or `st.Seed(value, offset)`; excludes `generator`.
        fields: numbers for the estimator's fields, as `order=3`.

    Returns:
        Counts in the shape, dtype and device of the parameter; those that the dtype does not
        hold (above 256 in bfloat16, 2048 in float16, 2^24 in float32) are rounded to it.

    Raises:
        DtypeError: if the parameter is not floating.
        ArgumentError: if not exactly one parameter is given, `total_count` is not above 0, the
            estimator is unknown, or both `seed` and `generator` are given.

    Edge cases: p = 0 is certain. NaN, a probability outside [0, 1), and one with a mean above
    2^20 (in float16 above 1023 times the lesser of 1 and r, where counts would overflow) give NaN
    (in `st.strict()` an error).

    Higher order: double backward and forward mode differentiate the rule's formula, the count
    held.

    Cost: near 0 a search from there by a CPU kernel, tens of nanoseconds an element (elsewhere a
    table of 256 counts); else up to 25 uniforms for attempts at a gamma draw, then the Poisson
    draw, a microsecond. The parameter and the count are saved. The law is exact to 4e-10, to 2e-6
    where there is no kernel and rates are above 2^20.

    Example:
        >>> y = st.negative_binomial(probs=torch.full((1000,), 0.5), total_count=3, seed=0)
        >>> abs(y.mean().item() - 3) < 0.5
        True

    References:
        Marsaglia, Tsang, "A simple method for generating gamma variables", 2000.
    """
    of = negative_binomial_family(logits, probs, total_count)
    return _draw("negative_binomial", of, estimator, fields, generator, seed)
