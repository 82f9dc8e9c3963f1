"""Scales that start on several processes, some of which have nothing to measure."""

import ranks
from frameworks import starting


def test_a_rank_without_anything_finite_does_not_count() -> None:
    ranks.run(starting.try_some_have_none, 3)


def test_each_channel_starts_at_what_the_ranks_see_of_it() -> None:
    ranks.run(starting.try_channels, 2)
