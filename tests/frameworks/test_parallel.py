"""Modules in a model whose layers tensor parallelism cuts: what they are on one process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import ranks
from frameworks import parallel

WORKERS = (
    parallel.try_kept_scales,
    parallel.try_counted,
    parallel.try_codebooks,
    parallel.try_routers,
    parallel.try_sums,
    parallel.try_refused,
    parallel.try_quantized,
)


@pytest.mark.parametrize("worker", WORKERS, ids=lambda worker: worker.__name__)
def test_on_two_ranks(worker: Callable[[int], None]) -> None:
    ranks.run(worker, 2)
