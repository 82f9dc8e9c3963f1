"""Two processes train what one does, and a checkpoint goes on with another number of them."""

from pathlib import Path

import pytest

import ranks
from frameworks import training


@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP2"])
def test_two_ranks_have_the_gradients_of_one_process(sharded: bool) -> None:
    ranks.run(training.try_gradients, 2, sharded)


def test_a_checkpoint_resumes_to_the_bit_with_another_number_of_ranks(tmp_path: Path) -> None:
    ranks.run(training.train_and_save, 2, tmp_path)
    ranks.run(training.resume, 1, tmp_path)
