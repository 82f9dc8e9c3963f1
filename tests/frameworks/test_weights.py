"""Quantized weights that are sharded, looked at and moved between forwards."""

import ranks
from frameworks import weights


def test_sharded_weights_have_the_scales_and_codes_of_whole_ones() -> None:
    ranks.run(weights.try_weights, 2)
