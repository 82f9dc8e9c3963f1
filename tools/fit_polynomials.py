"""Print `src/straightthrough/core/native/coefficients.h`, the numbers of exp, log and integrals.

    python tools/fit_polynomials.py > src/straightthrough/core/native/coefficients.h

A polynomial is the one of least squares of the relative error, at Chebyshev points, which makes the
largest error nearly as small as it can be; its first terms are held. All is worked out at 50 digits
and rounded to single precision last.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import mpmath
import numpy as np
from mpmath import mpf

mpmath.mp.dps = 50
POINTS = 200
Function = Callable[[mpf], mpf]

LN2 = mpmath.log(2)
ROOTS = 32
"""How many roots of 2 the table of the rough exponential has."""

NODES = 24
"""Of Gauss and Legendre's rule; a multiple of the lanes of every vector."""


def single(x: mpf) -> str:
    """Return a number as C++ writes it in single precision."""
    text = f"{float(np.float32(float(x))):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def chebyshev(low: mpf, high: mpf) -> list[mpf]:
    """Return the Chebyshev points of an interval."""
    angles = (mpmath.pi * (k + mpf(1) / 2) / POINTS for k in range(POINTS))
    return [(low + high + (high - low) * mpmath.cos(angle)) / 2 for angle in angles]


def fit(f: Function, held: Sequence[mpf], low: mpf, high: mpf, degree: int) -> list[mpf]:
    """Return the coefficients of a polynomial for `f`, the lowest, which are `held`, first."""
    first, points = len(held), chebyshev(low, high)
    free = range(first, degree + 1)
    rows = [[x**k / f(x) for k in free] for x in points]
    rest = [(f(x) - mpmath.polyval(held[::-1], x)) / f(x) for x in points]
    return [*held, *mpmath.qr_solve(mpmath.matrix(rows), mpmath.matrix(rest))[0]]


def error(f: Function, coefficients: Sequence[mpf], low: mpf, high: mpf) -> mpf:
    """Return the largest relative error, the coefficients in single precision."""
    rounded = [mpf(float(np.float32(float(c)))) for c in coefficients[::-1]]
    return max(abs(mpmath.polyval(rounded, x) / f(x) - 1) for x in chebyshev(low, high))


def polynomial(
    name: str, f: Function, held: Sequence[mpf], low: mpf, high: mpf, degree: int
) -> str:
    """Return the lines of a polynomial: how close it is, and what is not held, highest first."""
    found = fit(f, held, low, high, degree)
    numbers = ", ".join(single(c) for c in found[: len(held) - 1 : -1])
    row = f"constexpr float {name}[] = {{{numbers}}};"
    wrapped = textwrap.wrap(row, 100, subsequent_indent="    ")
    closeness = mpmath.nstr(error(f, found, low, high), 2)
    return "\n".join([f"// To {closeness} of itself, the highest power first.", *wrapped])


def rule() -> tuple[list[mpf], list[mpf]]:
    """Return nodes and weights of Gauss and Legendre's rule on [-1, 1]."""
    nodes, weights = [], []
    for i in range(NODES // 2):
        near = mpmath.cos(mpmath.pi * (i + mpf(3) / 4) / (NODES + mpf(1) / 2))
        x = mpmath.findroot(lambda x: mpmath.legendre(NODES, x), near)
        slope = NODES * mpmath.legendre(NODES - 1, x) / (1 - x**2)
        nodes += [-x, x]
        weights += [2 / ((1 - x**2) * slope**2)] * 2
    return nodes, weights


def doubles(name: str, numbers: Sequence[mpf]) -> str:
    """Return the lines of a table in double precision."""
    row = f"constexpr double {name}[] = {{{', '.join(f'{float(x):.17g}' for x in numbers)}}};"
    return "\n".join(textwrap.wrap(row, 100, subsequent_indent="    "))


def header() -> str:
    """Return the whole header."""
    first = mpmath.floor(LN2 * 2**15) / 2**15
    root = mpmath.nstr(mpmath.root(2, ROOTS), 17)
    share = mpmath.nstr(1 + (LN2 / (2 * ROOTS)) ** 2 / 4, 10)
    nodes, weights = rule()
    first_of_two = mpmath.floor(LN2 * 2**40) / 2**40
    ends = (mpmath.sqrt(mpf(1) / 2) - 1, mpmath.sqrt(2) - 1)
    exp = polynomial("kExp", mpmath.exp, [mpf(1), mpf(1)], -LN2 / 2, LN2 / 2, 6)
    log = polynomial("kLog", lambda f: mpmath.log(1 + f), [mpf(0), mpf(1), mpf(-0.5)], *ends, 10)
    return f"""\
// Made by `python tools/fit_polynomials.py`, which says how.
#pragma once

namespace simd {{

constexpr float kLog2E = {single(1 / LN2)}, kLn2 = {single(LN2)};
// log 2 in two parts: the first is so short that its products with exponents are exact.
constexpr float kLn2First = {single(first)}, kLn2Rest = {single(LN2 - first)};

// e^r = 1 + r + r^2 kExp(r) for |r| <= log 2 / 2.
{exp}

// log(1 + f) = f - f^2 / 2 + f^3 kLog(f) for 1 + f in [sqrt(1/2), sqrt(2)).
{log}

// A root of 2, and what shares out the error of 1 + r for |r| <= log 2 / {2 * ROOTS}.
constexpr int kRoots = {ROOTS};
constexpr double kRoot = {root}, kShare = {share};

// log 2 in double precision: the first part has 40 bits after the point.
{doubles("kLn2InTwo", [first_of_two, LN2 - first_of_two])}

// Gauss and Legendre's rule on [-1, 1].
constexpr int kNodes = {NODES};
{doubles("kNode", nodes)}
{doubles("kWeight", weights)}

}}  // namespace simd
"""


if __name__ == "__main__":
    print(header(), end="")
