"""Counts of which a uniform is the distribution function, on GPUs: as quantile.h has them.

From 0 on, or near the mean; all in double precision. A tile goes on until its last count is found.
"""

import triton
import triton.language as tl

from ...core.native import philox

FAR = tl.constexpr(32.0)
"""Up to this rate a search from 0 is short, and begins above nothing."""

TABLE = tl.constexpr(256.0)
"""No search from 0 goes further."""

NOTHING = tl.constexpr(2.0**-60)
"""What is left out once a weight is below it is less than the rounding of the sum."""

TWO_PI, ROOT_HALF = tl.constexpr(6.2831853071795865), tl.constexpr(0.70710678118654752)
DENSITY_AT_0 = tl.constexpr(0.39894228040143268)

NODE = tl.constexpr(
    (0.99518721999702131, 0.97472855597130947, 0.9382745520027328, 0.88641552700440107,
     0.82000198597390295, 0.74012419157855436, 0.64809365193697555, 0.54542147138883956,
     0.43379350762604513, 0.3150426796961634, 0.19111886747361631, 0.06405689286260563)
)  # fmt: skip
WEIGHT = tl.constexpr(
    (0.0123412297999872, 0.028531388628933663, 0.044277438817419808, 0.059298584915436783,
     0.0733464814110803, 0.086190161531953274, 0.097618652104113884, 0.10744427011596563,
     0.1155056680537256, 0.12167047292780339, 0.1258374563468283, 0.12793819534675216)
)  # fmt: skip
"""Gauss and Legendre's rule of 24 nodes on [-1, 1]: one half, and minus its nodes the other."""


@triton.jit
def any_of(truth):
    """Whether one of a tile is true."""
    return tl.max(tl.max(truth.to(tl.int32), 1), 0) > 0


@triton.jit
def log1p(x):
    """log(1 + x), exact near 0 too."""
    w = 1 + x
    return tl.log(w) + (x - (w - 1)) / w


@triton.jit
def from_zero(first, times, u, a, b):
    """Counts whose weights follow from `first` at 0 by `times (a + b k) / (k + 1)`."""
    weight, until, count = first, first, tl.zeros_like(u)
    k = tl.full([], 0.0, tl.float64)
    searched = (until < u) & (weight > NOTHING)
    while any_of(searched):
        count += tl.where(searched, 1.0, 0.0)
        following = tl.where(k < TABLE - 2, tl.maximum(a + b * k, 0.0) / (k + 1), 0.0)
        weight *= times * following
        until += weight
        k += 1
        searched = (until < u) & (weight > NOTHING)
    return count


@triton.jit
def rough_normal_quantile(u):
    """The normal quantile to 4.5e-4 (Abramowitz and Stegun, 26.2.23)."""
    t = tl.sqrt(-2 * tl.log(tl.minimum(u, 1 - u)))
    above = 2.515517 + t * (0.802853 + t * 0.010328)
    z = t - above / (1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    return tl.where(u < 0.5, -z, z)


@triton.jit
def normal_quantile(u):
    """The same to 1e-8 and better, by two steps of Halley's; as it is beyond 6.

    There, a uniform in 10^9, the error function of GPUs has no digits of the tail.
    """
    tail = tl.minimum(u, 1 - u)
    rough = -tl.abs(rough_normal_quantile(u))
    z = rough
    for _ in tl.static_range(2):
        by = (0.5 * (1 - tl.erf(-z * ROOT_HALF)) - tail) / DENSITY_AT_0 * tl.exp(z * z / 2)
        z -= by / (1 + z * by / 2)
    z = tl.where(rough < -6, rough, z)
    return tl.where(u < 0.5, z, -z)


@triton.jit
def attempt(normal, u, d):
    """What Marsaglia and Tsang make of a normal number, and whether a uniform lets it pass."""
    side = 1 + normal / tl.sqrt(9 * d)
    cube = side * side * side
    bound = normal * normal / 2 + d - d * cube + d * tl.log(cube)  # NaN where it is negative
    return d * cube, tl.log(u) < bound


@triton.jit
def gamma(shape, key, position):
    """Gamma draws of scale 1: of twelve attempts the first that passes, as in reference.py."""
    d = tl.where(shape >= 1, shape, shape + 1) - 1 / 3
    value, group, tag = tl.zeros(position.shape, tl.float64), 0, philox.CONDITIONAL
    tried = position == position
    while any_of(tried):
        n0, n1, n2, n3 = philox.blocks(key, position, group, tag)
        u0, u1, u2, u3 = philox.blocks(key, position, group + 6, tag)
        one, passes = attempt(normal_quantile(philox.unit53(n0, n1)), philox.unit53(u0, u1), d)
        value = tl.where(tried & (passes | (group == 0)), one, value)
        tried &= passes == 0
        one, passes = attempt(normal_quantile(philox.unit53(n2, n3)), philox.unit53(u2, u3), d)
        value = tl.where(tried & passes, one, value)
        group += 1
        tried &= (passes == 0) & (group < 6)
    u0, u1, _, _ = philox.blocks(key, position, 12, tag)
    power = tl.exp(tl.log(philox.unit53(u0, u1)) / shape)
    return tl.where(shape >= 1, value, value * power)


@triton.jit
def stirling_rest(n):
    """log(n!) less Stirling's formula, below 16 out of that 16 further."""
    m = tl.where(n < 16, n + 16, n)
    r = 1 / (m * m)
    rest = (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r / 1680))) / m
    between = n + 1
    for j in tl.static_range(2, 17):
        between *= n + j
    further = (m + 0.5) * tl.log(m) - m - tl.log(between)
    return tl.where(n < 16, further - (n + 0.5) * tl.log(n) + n + rest, rest)


@triton.jit
def log_factor(k, trials, BINOMIAL: tl.constexpr):
    """What a weight at `k` has of factors that the parameter is not in, as a logarithm."""
    if BINOMIAL:
        rest = stirling_rest(trials) - stirling_rest(k) - stirling_rest(trials - k)
        log = rest + 0.5 * tl.log(trials / (k * TWO_PI * (trials - k)))
    else:
        log = -stirling_rest(k) - 0.5 * tl.log(k * TWO_PI)
    return log


@triton.jit
def weight_of(k, at, log_factor, trials, BINOMIAL: tl.constexpr):
    """The probability of k at a rate, or of k among trials at a probability."""
    if BINOMIAL:
        away = trials * at - k
        log = k * log1p(away / k) + (trials - k) * log1p(-away / (trials - k))
    else:
        log = k * log1p((at - k) / k) - (at - k)
    return tl.exp(log_factor + log)


@triton.jit
def probability_between(k, start, end, trials, BINOMIAL: tl.constexpr):
    """By how much the distribution function at k falls from one parameter to another."""
    i = tl.arange(0, 16)
    nodes, weights = tl.zeros([16], tl.float64), tl.zeros([16], tl.float64)
    for j in tl.static_range(12):
        nodes = tl.where(i == j, tl.full([16], NODE[j], tl.float64), nodes)
        weights = tl.where(i == j, tl.full([16], WEIGHT[j], tl.float64), weights)
    others = trials - 1
    log, middle, half = log_factor(k, others, BINOMIAL), (start + end) / 2, (end - start) / 2
    total = tl.zeros_like(k)
    for j in range(12):
        node = half * tl.sum(tl.where(i == j, nodes, 0.0), 0)
        above = weight_of(k, middle + node, log, others, BINOMIAL)
        below = weight_of(k, middle - node, log, others, BINOMIAL)
        total += tl.sum(tl.where(i == j, weights, 0.0), 0) * (above + below)
    return half * total * (trials if BINOMIAL else 1)


@triton.jit
def ratio(k, at, trials, BINOMIAL: tl.constexpr):
    """Of the weights of k and k - 1."""
    return (trials - k + 1) / k * (at / (1 - at)) if BINOMIAL else at / k


@triton.jit
def near_mean(far, at, u, trials, BINOMIAL: tl.constexpr):
    """The smallest counts whose distribution function is at least u, where `far`.

    From the function at a guess, in the tail that is on the other side of the peak, it is a few
    steps to there.
    """
    at = tl.where(far, at, 0.5 if BINOMIAL else 64.0)
    z = rough_normal_quantile(u)
    if BINOMIAL:
        mean, last = trials * at, trials - 2
        guess = mean + tl.sqrt(mean * (1 - at)) * z + (1 - 2 * at) * (z * z - 1) / 6
        k = tl.maximum(tl.minimum(tl.floor(guess), last), 1.0)
        peak = k / (trials - 1)
        width = tl.sqrt(peak * (1 - peak) / (trials - 1))
        end = tl.minimum(at + 1, 1.0)
    else:
        last = trials
        k = tl.maximum(tl.floor(at + tl.sqrt(at) * z + (z * z - 1) / 6), 1.0)
        peak, width, end = k, tl.sqrt(k), at + float("inf")
    above = at > peak
    upper = tl.where(above, tl.minimum(end, at + 12 * width), at)
    lower = tl.where(above, at, tl.maximum(at - 9 * width, 0.0))
    part = probability_between(k, lower, upper, trials, BINOMIAL)
    excess = tl.where(above, part - u, (1 - u) - part)  # of the function at k over u
    weight = weight_of(k, at, log_factor(k, trials, BINOMIAL), trials, BINOMIAL)
    up = far & (excess < 0) & (weight > 0) & (k < last)
    while any_of(up):
        k += tl.where(up, 1.0, 0.0)
        weight = tl.where(up, weight * ratio(k, at, trials, BINOMIAL), weight)
        excess += tl.where(up, weight, 0.0)
        up &= (excess < 0) & (weight > 0) & (k < last)
    down = far & (excess >= weight) & (weight > 0) & (k > 0)
    while any_of(down):
        excess -= tl.where(down, weight, 0.0)
        weight = tl.where(down, weight / ratio(k, at, trials, BINOMIAL), weight)
        k -= tl.where(down, 1.0, 0.0)
        down &= (excess >= weight) & (weight > 0) & (k > 0)
    return k


@triton.jit
def poisson_quantile(u, rate):
    """Poisson counts at rates."""
    near = tl.minimum(rate, FAR)
    count = from_zero(tl.exp(-near), near, u, 1.0, 0.0)
    far = (rate > FAR) & (rate < 2.0**53)
    if any_of(far):
        most = tl.full([], 2.0**53, tl.float64)
        count = tl.where(far, near_mean(far, rate, u, most, False), count)
    return count
