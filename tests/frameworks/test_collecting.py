"""What forwards collect until it is applied, on two processes that DDP keeps alike."""

from collections.abc import Callable

import pytest

import ranks
from frameworks import collecting


@pytest.mark.parametrize("worker", [collecting.try_collected, collecting.try_lost])
def test_what_is_collected_is_of_all_ranks_or_an_error(worker: Callable[[int], None]) -> None:
    ranks.run(worker, 2)


def test_two_processes_have_one_codebook_to_the_bit() -> None:
    ranks.run(collecting.try_one_codebook, 2)
