"""Textbook formulas of every surrogate at 50 digits: an oracle that shares no code with ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath
from mpmath import mpf

from straightthrough import surrogates
from straightthrough.core.rules import Derivative

mpmath.mp.dps = 50
HALF, PI = mpf(1) / 2, mpmath.pi


@dataclass(frozen=True)
class Formula:
    """A rule, its derivative and primitive in mpmath, and where the primitive has kinks."""

    rule: Derivative
    derivative: Callable[[mpf], mpf]
    primitive: Callable[[mpf], mpf]
    kinks: tuple[float, ...] = ()


def identity() -> Formula:
    return Formula(surrogates.Identity(), lambda x: mpf(1), lambda x: x)


def clipped(w: float) -> Formula:
    return Formula(
        surrogates.Clipped(w),
        lambda x: mpf(abs(x) <= w),
        lambda x: max(-w, min(x, w)),
        (-w, w),
    )


def tanh(k: float) -> Formula:
    return Formula(
        surrogates.Tanh(k),
        lambda x: k * mpmath.sech(k * x) ** 2,
        lambda x: mpmath.tanh(k * x),
    )


def sigmoid(k: float) -> Formula:
    return Formula(
        surrogates.Sigmoid(k),
        lambda x: k * mpmath.exp(-k * x) / (1 + mpmath.exp(-k * x)) ** 2,
        lambda x: 1 / (1 + mpmath.exp(-k * x)),
    )


def atan(a: float) -> Formula:
    return Formula(
        surrogates.Atan(a),
        lambda x: (mpf(a) / 2) / (1 + (PI * a * x / 2) ** 2),
        lambda x: mpmath.atan(PI * a * x / 2) / PI + HALF,
    )


def erf(a: float) -> Formula:
    return Formula(
        surrogates.Erf(a),
        lambda x: a / mpmath.sqrt(PI) * mpmath.exp(-((a * x) ** 2)),
        lambda x: mpmath.erfc(-a * x) / 2,
    )


def fast_sigmoid(k: float) -> Formula:
    return Formula(
        surrogates.FastSigmoid(k),
        lambda x: 1 / (1 + k * abs(x)) ** 2,
        lambda x: x / (1 + k * abs(x)),
    )


def super_spike(a: float) -> Formula:
    return Formula(
        surrogates.SuperSpike(a),
        lambda x: a / (1 + abs(x)) ** 2,
        lambda x: a * x / (1 + abs(x)),
    )


def soft_sign(a: float) -> Formula:
    return Formula(
        surrogates.SoftSign(a),
        lambda x: 1 / (2 * a * (1 / mpf(a) + abs(x)) ** 2),
        lambda x: (a * x / (1 + abs(a * x)) + 1) / 2,
    )


def triangle(a: float) -> Formula:
    def primitive(x: mpf) -> mpf:
        if abs(x) >= 1 / mpf(a):
            return mpf(x > 0)
        return HALF + a * x - a * a * x * abs(x) / 2

    return Formula(surrogates.Triangle(a), lambda x: max(mpf(0), a - a * a * abs(x)), primitive)


def rectangle(a: float) -> Formula:
    return Formula(
        surrogates.Rectangle(a),
        lambda x: a * mpf(abs(x) < 1 / (2 * mpf(a))),
        lambda x: max(mpf(0), min(mpf(1), a * x + HALF)),
        (-0.5 / a, 0.5 / a),
    )


def exponential(a: float) -> Formula:
    return Formula(
        surrogates.Exponential(a),
        lambda x: mpf(a) / 2 * mpmath.exp(-a * abs(x)),
        lambda x: mpmath.exp(a * x) / 2 if x < 0 else 1 - mpmath.exp(-a * x) / 2,
    )


def leaky_rectangle(w: float, c: float) -> Formula:
    def primitive(x: mpf) -> mpf:
        if abs(x) <= w:
            return HALF + x / (2 * w)
        return 1 + c * (x - w) if x > 0 else c * (x + w)

    return Formula(
        surrogates.LeakyRectangle(w, c),
        lambda x: 1 / (2 * mpf(w)) if abs(x) <= w else mpf(c),
        primitive,
        (-w, w),
    )


def multi_gaussian(gamma: float, s: float, h: float) -> Formula:
    def mixture(law: Callable[[mpf, mpf, mpf], mpf]) -> Callable[[mpf], mpf]:
        one, wide = mpf(s), 6 * mpf(s)
        return lambda x: (
            gamma * ((1 + mpf(h)) * law(x, 0, one) - h * law(x, one, wide) - h * law(x, -one, wide))
        )

    rule = surrogates.MultiGaussian(gamma, s, h)
    return Formula(rule, mixture(mpmath.npdf), mixture(mpmath.ncdf))


def square_wave(terms: int, period: float) -> Formula:
    odd = range(1, 2 * terms, 2)
    return Formula(
        surrogates.SquareWave(terms, period),
        lambda x: 4 / mpf(period) * sum(mpmath.cos(n * 2 * PI * x / period) for n in odd),
        lambda x: HALF + 2 / PI * sum(mpmath.sin(n * 2 * PI * x / period) / n for n in odd),
    )


def approx_sign() -> Formula:
    return Formula(
        surrogates.ApproxSign(),
        lambda x: 2 - 2 * abs(x) if abs(x) <= 1 else mpf(0),
        lambda x: 2 * x - x * abs(x) if abs(x) <= 1 else mpmath.sign(x),
    )


def swish_sign(b: float) -> Formula:
    def primitive(x: mpf) -> mpf:
        s = 1 / (1 + mpmath.exp(-b * x))
        return 2 * s * (1 + b * x * (1 - s)) - 1

    return Formula(
        surrogates.SwishSign(b),
        lambda x: b * (2 - b * x * mpmath.tanh(b * x / 2)) / (1 + mpmath.cosh(b * x)),
        primitive,
    )


def error_decay(t: float) -> Formula:
    k = max(1 / mpf(t), mpf(1))
    return Formula(
        surrogates.ErrorDecay(t),
        lambda x: k * t * mpmath.sech(t * x) ** 2,
        lambda x: k * mpmath.tanh(t * x),
    )


# Each with its default and with another argument; all of them exact in binary or nearly so.
FORMULAS = [
    identity(),
    *map(clipped, (1.0, 0.25)),
    *map(tanh, (1.0, 3.0)),
    *map(sigmoid, (4.0, 25.0)),
    *map(atan, (2.0, 0.5)),
    *map(erf, (2.0, 0.5)),
    *map(fast_sigmoid, (25.0, 2.0)),
    *map(super_spike, (1.0, 3.0)),
    *map(soft_sign, (2.0, 5.0)),
    *map(triangle, (1.0, 2.0)),
    *map(rectangle, (1.0, 4.0)),
    *map(exponential, (1.0, 3.0)),
    leaky_rectangle(1.0, 0.01),
    leaky_rectangle(0.5, 0.1),
    multi_gaussian(0.5, 0.5, 0.15),
    multi_gaussian(1.0, 0.2, 0.3),
    square_wave(2, 8.0),
    square_wave(4, 3.0),
    approx_sign(),
    *map(swish_sign, (5.0, 10.0)),
    *map(error_decay, (0.1, 4.0)),
]
