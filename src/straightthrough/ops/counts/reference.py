"""What the kernels of counts must equal, in plain torch: draws by inversion of one uniform each.

A parameter is the rate or the probability where it is `direct`, else its logarithm or its logit. A
mean that is none, or is above `largest`, has no outcome and gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.kernels import kernel
from ...core.noise import Noise, in_blocks
from ...core.precision import as_due, compute_dtype, narrowed
from ...core.sums import summed
from ...estimators import CountEstimator, Fini
from ..bernoulli.reference import logit

ATTEMPTS = 12
"""Of a gamma draw; each is refused with a probability below 0.05, all of them below 3e-16."""

TABLE = 256
"""So many negative binomial counts hold all but 2^-54 of a law up to `nearest`."""


def nearest(total_count: float) -> float:
    """Return the logit up to which a negative binomial law is drawn out of a table.

    Its mean is at most 16, and the probability of a success at most 3/4.
    """
    return min(math.log(3), math.log(16) - math.log(total_count))


@kernel("(Tensor x, bool direct, float largest, Noise noise) -> Tensor")
def poisson(x: Tensor, direct: bool, largest: float, noise: Noise) -> Tensor:
    """Draw Poisson counts."""

    def block(first: int, x: Tensor) -> Tensor:
        rate = x if direct else x.exp()
        count = poisson_quantile(uniform(x, noise.after(first)), rate)
        return within(rate, largest, count)

    return drawn(block, x)


@kernel("(Tensor x, bool direct, int trials, Noise noise) -> Tensor")
def binomial(x: Tensor, direct: bool, trials: int, noise: Noise) -> Tensor:
    """Draw binomial counts, by the counts near the mean; by Hoeffding, all others have 2^-54."""
    near = math.ceil(4.4 * math.sqrt(trials)) + 1
    width = min(trials, 2 * near) + 1
    every = torch.arange(trials + 1, dtype=torch.float64, device=x.device)
    log_ways = -torch.lgamma(every + 1) - torch.lgamma(trials - every + 1)

    def block(first: int, x: Tensor) -> Tensor:
        odds = (logit(x) if direct else x).clamp(-1e5, 1e5).unsqueeze(-1)
        mean = trials * (x if direct else torch.sigmoid(x))
        lowest = (mean.floor() - near).nan_to_num().clamp(0, trials + 1 - width)
        count = lowest.unsqueeze(-1) + every[:width]
        u = uniform(x, noise.after(first))
        further = from_table(log_ways[count.long()] + count * odds, u)
        return within(mean, trials, lowest + further)

    return drawn(block, x, width)


@kernel("(Tensor x, bool direct, float largest, Noise noise) -> Tensor")
def geometric(x: Tensor, direct: bool, largest: float, noise: Noise) -> Tensor:
    """Draw failures before the first success."""

    def block(first: int, x: Tensor) -> Tensor:
        log_failure = torch.log1p(-x) if direct else F.logsigmoid(-x)
        count = (uniform(x, noise.after(first)).log() / log_failure).floor()
        return within((1 - x) / x if direct else (-x).exp(), largest, count)

    return drawn(block, x)


@kernel(
    "(Tensor x, bool direct, float total_count, float near, float largest, Noise noise) -> Tensor"
)
def negative_binomial(
    x: Tensor, direct: bool, total_count: float, near: float, largest: float, noise: Noise
) -> Tensor:
    """Draw successes before `total_count` failures.

    Up to the logit `near` out of a table; beyond it as a Poisson count, its rate the odds times a
    gamma draw of the shape `total_count`.
    """
    every = torch.arange(TABLE - 1, dtype=torch.float64, device=x.device)
    ratios = ((every + total_count) / (every + 1)).log()
    log_ways = F.pad(ratios.expand(TABLE - 1, -1).tril().sum(-1), (1, 0))
    count = torch.arange(TABLE, dtype=torch.float64, device=x.device)

    def block(first: int, x: Tensor) -> Tensor:
        u = uniform(x, noise.after(first))
        log_p = (x.log() if direct else F.logsigmoid(x)).clamp(min=-1e5).unsqueeze(-1)
        few = from_table(log_ways + count * log_p, u)
        odds = x / (1 - x) if direct else x.exp()
        # Another stream than that of the Poisson draw, and no rule of counts reads it.
        attempts = noise.after(first).classes(x.shape[0], 2 * ATTEMPTS + 1, torch.float64)
        many = poisson_quantile(u, odds * gamma(total_count, attempts))
        limit = 1 / (1 + math.exp(-near)) if direct else near
        return within(total_count * odds, largest, torch.where(x <= limit, few, many))

    return drawn(block, x, TABLE)


@kernel(
    "(Tensor x, Tensor count, Tensor grad, float size, bool direct, bool of_failure, int order) "
    "-> Tensor"
)
def fini(
    x: Tensor,
    count: Tensor,
    grad: Tensor,
    size: float,
    direct: bool,
    of_failure: bool,
    order: int,
) -> Tensor:
    """Return the gradient of `Fini(order)` to a parameter, as `pulled` does."""
    return pulled(Fini(order), x, count, grad, size, direct, of_failure)


def _fini(rule: Fini, *given: Any) -> Tensor:
    return fini(*(*given, rule.order))


Fini.gradient.kernel = _fini  # type: ignore[attr-defined]  # functions take any


def pulled(
    rule: CountEstimator,
    x: Tensor,
    count: Tensor,
    grad: Tensor,
    size: float,
    direct: bool,
    of_failure: bool,
) -> Tensor:
    """Return the gradient of a rule to a parameter, NaN where there is no count."""
    wide = compute_dtype(x.dtype)
    mean, dispersion, slope = moments(x.to(wide), size, direct, of_failure)
    exact = count.to(wide)
    if size < 0:
        # Where a probability is all but 1 there is no other count than that of all trials, which
        # half precision may round.
        exact = torch.where(count == torch.full_like(count, -size), -size, exact)
    # The slope may be as small as the rule's weight is large.
    gradient = rule.gradient(mean, dispersion, size, exact, grad.to(wide) * slope)
    return narrowed(as_due(gradient, x, wide).masked_fill(count.isnan(), torch.nan), x.dtype)


def moments(
    x: Tensor, size: float, direct: bool, of_failure: bool
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return the mean m at a parameter, `1 + m / size`, and the derivative of m.

    `size` is infinite for Poisson, minus the number of trials for binomial counts, that of failures
    for negative binomial ones, whose parameter may be `of_failure`.
    """
    if math.isinf(size):
        mean = x if direct else x.exp()
        return mean, torch.ones_like(x), 1.0 if direct else mean
    if size < 0:
        p, q = (x, 1 - x) if direct else (torch.sigmoid(x), torch.sigmoid(-x))
        return -size * p, q, -size if direct else -size * p * q
    sign = -1 if of_failure else 1
    if direct:
        p, q = (1 - x, x) if of_failure else (x, 1 - x)
        return size * p / q, 1 / q, sign * size / q.square()
    odds = (sign * x).exp()
    return size * odds, 1 + odds, sign * size * odds


def drawn(block: Callable[..., Tensor], x: Tensor, width: int = 1) -> Tensor:
    """Return what `block` draws, in float64 and `width` numbers an element, in the dtype of `x`."""
    flat = x.to(torch.float64).reshape(-1)
    # A copy, as torch lets nobody write to a value that is a view.
    return in_blocks(block, flat, width=width).reshape(x.shape).to(x.dtype, copy=True)


def within(mean: Tensor, largest: float, count: Tensor) -> Tensor:
    """Return the count where its mean is one that has an outcome, else NaN."""
    return torch.where((mean >= 0) & (mean <= largest), count, torch.nan)


def uniform(x: Tensor, noise: Noise) -> Tensor:
    """Return one 53-bit uniform an element of `x`, which is flat."""
    return noise.elements(x.shape[0], torch.float64)


def from_table(log_weights: Tensor, u: Tensor) -> Tensor:
    """Return the count at which the cumulative weights of a row come above a share of their sum."""
    cumulative = summed(torch.softmax(log_weights, -1))
    return (cumulative <= u.unsqueeze(-1) * cumulative[:, -1:]).sum(-1)


def poisson_quantile(u: Tensor, rate: Tensor) -> Tensor:
    """Return the smallest count whose distribution function is at least `u`.

    The normal approximation with its first correction is at most 11 too high and 2 too low, for
    every 53-bit uniform and every rate; four steps of a binary search find the dispersion.
    """
    normal = torch.special.ndtri(u)
    guess = rate + rate.sqrt() * normal + (normal.square() + 2) / 6
    count = (guess.floor() - 12).clamp(min=0)
    for step in (8, 4, 2, 1):
        further = count + step
        below = torch.special.gammaincc(further, rate) < u  # P(z < further)
        count = torch.where(below, further, count)
    return count


def gamma(shape: float, noise: Tensor) -> Tensor:
    """Draw from the gamma law of scale 1 by Marsaglia and Tsang: the first attempt that passes.

    `noise` holds a row of `2 ATTEMPTS + 1` uniforms a draw.
    """
    # Below 1, a draw for the shape plus 1 times a power of a uniform.
    d = (shape if shape >= 1 else shape + 1) - 1 / 3
    normal = torch.special.ndtri(noise[:, :ATTEMPTS])
    cube = (1 + normal / math.sqrt(9 * d)) ** 3
    bound = normal.square() / 2 + d - d * cube + d * cube.log()  # NaN where the cube is negative
    passes = noise[:, ATTEMPTS:-1].log() < bound
    value = d * cube.gather(-1, passes.int().argmax(-1, keepdim=True))[:, 0]
    return value if shape >= 1 else value * (noise[:, -1].log() / shape).exp()
