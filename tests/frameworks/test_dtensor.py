"""DTensors: every operator draws on its part what the whole tensor would have drawn there."""

from collections.abc import Callable

import pytest

import ranks
from frameworks import mesh


def name(worker: object) -> str:
    return getattr(worker, "__name__", "")


OF_TWO = [
    mesh.try_every_operator,
    mesh.try_scales,
    mesh.try_numbers,
    mesh.try_no_gradient,
    mesh.try_refused,
    mesh.try_compiled,
]
OF_FOUR = [mesh.try_two_axes, mesh.try_seeds, mesh.try_the_rest, mesh.try_gates]


@pytest.mark.parametrize("worker", OF_TWO, ids=name)
def test_on_two_ranks(worker: Callable[[int], None]) -> None:
    ranks.run(worker, 2)


@pytest.mark.parametrize("worker", OF_FOUR, ids=name)
def test_on_four_ranks(worker: Callable[[int], None]) -> None:
    ranks.run(worker, 4)
