"""Two processes train what one does, and a checkpoint goes on with another number of them."""

from pathlib import Path

import pytest

import ranks
from frameworks import training


@pytest.mark.parametrize("make", [training.VAE, training.Classifier])
@pytest.mark.parametrize("sharded", [False, True], ids=["DDP", "FSDP2"])
def test_two_ranks_have_the_gradients_of_one_process(make: training.Make, sharded: bool) -> None:
    ranks.run(training.try_gradients, 2, make, sharded)


# Scales start from what a rank sees first, so that one of them can't stand for two.
@pytest.mark.parametrize(("make", "others"), [(training.VAE, 1), (training.Classifier, 2)])
def test_a_checkpoint_resumes_to_the_bit_with_other_ranks(
    make: training.Make, others: int, tmp_path: Path
) -> None:
    ranks.run(training.train_and_save, 2, make, tmp_path)
    ranks.run(training.resume, others, make, tmp_path)
