"""Codebooks that learn on two processes: sharded, saved and resumed."""

from pathlib import Path

import ranks
from frameworks import quantizing


def test_a_checkpoint_of_sharded_codebooks_resumes_to_the_bit(tmp_path: Path) -> None:
    ranks.run(quantizing.train_and_save, 2, tmp_path)
    ranks.run(quantizing.resume, 2, tmp_path)


def test_a_sharded_codebook_starts_at_the_means_of_all_rows() -> None:
    ranks.run(quantizing.try_start, 2)


def test_a_sharded_codebook_does_not_start_in_a_forward() -> None:
    ranks.run(quantizing.try_start_in_forward, 2)


def test_scales_that_one_rank_has_loaded_have_started_on_all() -> None:
    ranks.run(quantizing.try_broadcast, 2)
