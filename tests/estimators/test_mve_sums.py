"""MVE is no formula of a few sums over the classes.

Were an entry of S a function of its own class, of the outcome's, and of m sums over the classes of
whatever functions of one class, then its derivatives `d^2 S / dp_j dp_k`, j in one set of classes
and k in another, would be a matrix of rank at most m. (The class that takes up what the others
leave of 1 needs the sum of those, one of the m.) Where that matrix of n x n has full rank, m >= n.
Everything is rational, so the rank is decided exactly: modulo a prime it can only be less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from straightthrough.estimators import MVE

PRIME = 2**61 - 1


@dataclass(frozen=True)
class Jet:
    """`value + left s + right t + both s t`, s^2 = t^2 = 0, modulo the prime."""

    value: int
    left: int = 0
    right: int = 0
    both: int = 0

    def __add__(self, other: Jet) -> Jet:
        return Jet(
            (self.value + other.value) % PRIME,
            (self.left + other.left) % PRIME,
            (self.right + other.right) % PRIME,
            (self.both + other.both) % PRIME,
        )

    def __sub__(self, other: Jet) -> Jet:
        return self + Jet(-1) * other

    def __mul__(self, other: Jet) -> Jet:
        return Jet(
            self.value * other.value % PRIME,
            (self.value * other.left + self.left * other.value) % PRIME,
            (self.value * other.right + self.right * other.value) % PRIME,
            (
                self.value * other.both
                + self.both * other.value
                + self.left * other.right
                + self.right * other.left
            )
            % PRIME,
        )

    def __truediv__(self, other: Jet) -> Jet:
        inverse = pow(other.value, -1, PRIME)
        square = inverse * inverse % PRIME
        curve = 2 * other.left * other.right * inverse - other.both
        return self * Jet(
            inverse, -other.left * square, -other.right * square, curve * square % PRIME
        )


def solved(matrix: list[list[Any]], right: list[Any]) -> list[Any]:
    rows = [[*row, entry] for row, entry in zip(matrix, right, strict=True)]
    for i, row in enumerate(rows):
        rows[i] = pivot = [entry / row[i] for entry in row]
        for k, other in enumerate(rows):
            if k != i:
                rows[k] = [b - other[i] * a for a, b in zip(pivot, other, strict=True)]
    return [row[-1] for row in rows]


def rank(matrix: list[list[int]]) -> int:
    rows, found = [row[:] for row in matrix], 0
    for column in range(len(rows)):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column] % PRIME), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        inverse = pow(rows[found][column], -1, PRIME)
        for i in range(found + 1, len(rows)):
            factor = rows[i][column] * inverse
            rows[i] = [(b - factor * a) % PRIME for a, b in zip(rows[found], rows[i], strict=True)]
        found += 1
    return found


def entry(p: list[Any], one: Any) -> Any:
    """The entry of S at row and column 1 where the outcome is 0, at tau 1, as the paper has it."""
    zero = one - one
    among = [[a * b / (one + a + b) for b in p] for a in p]
    matrix = [[zero - product for product in row] for row in among]
    for i, a in enumerate(p):
        beside = sum([*among[i][:i], *among[i][i + 1 :]], zero)
        matrix[i][i] = sum([b / (one + a + b) for b in p], zero) + beside
    jacobian = [(a if i == 1 else zero) - a * p[1] for i, a in enumerate(p)]
    right = [(one + a) / (one + a + a) * b for a, b in zip(p, jacobian, strict=True)]
    v = solved(matrix, right)
    return ((one + p[1]) * v[1] - p[1] * v[0]) / (one + p[1] + p[0])


def weights(classes: int) -> list[int]:
    return [k * k + 3 * k + 5 for k in range(classes)]


def moved(classes: int, j: int, k: int) -> list[Jet]:
    """Probabilities of which class j moves with s, class k with t, and class 0 makes up for it."""
    over = pow(sum(weights(classes)), -1, PRIME)
    p = [Jet(w * over % PRIME, int(i == j), int(i == k)) for i, w in enumerate(weights(classes))]
    return [Jet(p[0].value, -1, -1), *p[1:]]


def test_the_entry_is_the_rule_s() -> None:
    given = torch.tensor(weights(5), dtype=torch.float64)
    grad = torch.eye(5, dtype=torch.float64)[1]
    value = MVE(tau=1.0).vjp(given.log(), torch.tensor(0), grad)[1].item()
    assert value == pytest.approx(entry((given / given.sum()).tolist(), 1.0), rel=1e-12)


@pytest.mark.parametrize("sums", [2, 3, 4, 5])
def test_no_fewer_sums_would_do(sums: int) -> None:
    classes = 2 * sums + 2
    one_set, another = range(2, 2 + sums), range(2 + sums, classes)
    mixed = [[entry(moved(classes, j, k), Jet(1)).both for k in another] for j in one_set]
    assert rank(mixed) == sums
