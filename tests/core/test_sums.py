"""Sums in whole numbers, against Python's own."""

from __future__ import annotations

import numpy as np
import torch

from straightthrough.core.sums import share, summed


def test_a_share_of_a_total_is_rounded_down() -> None:
    """At most one too far, in numbers of up to 53 bits whose product has 106."""
    generator = np.random.default_rng(0)
    ends = [0, 1, 2**26 - 1, 2**26, 2**27, 2**51, 2**52 - 1]
    bits = [*ends, *generator.integers(0, 2**52, 1000).tolist()]
    totals = [*reversed(ends), *generator.integers(2**51, 2**53, 1000).tolist()]
    shares = share(torch.tensor(bits)[:, None], torch.tensor(totals)[:, None]).flatten().tolist()
    for number, total, part in zip(bits, totals, shares, strict=True):
        assert 0 <= (2 * number + 1) * total // 2**53 - part <= 1


def test_sums_are_exact_and_probabilities_of_2_to_the_minus_52_count() -> None:
    p = torch.tensor([[2.0**-52, 0.25, 2.0**-53, 0.5 - 2.0**-40, 2.0**-30]], dtype=torch.float64)
    quarter = 2**50
    wanted = [1, 1 + quarter, 1 + quarter, 1 + 3 * quarter - 2**12, 1 + 3 * quarter - 2**12 + 2**22]
    assert summed(p)[0].tolist() == wanted
