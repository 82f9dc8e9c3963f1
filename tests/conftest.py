"""What every test starts from: one seed, one number of threads, poisoned memory."""

import os
from collections.abc import Iterator

import pytest
import torch

THREADS = 1  # the tensors are small; more would only wait for each other


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need data from outside, unless the data is there."""
    if "STRAIGHTTHROUGH_DATA" not in os.environ:
        outside = [item for item in items if item.get_closest_marker("shared")]
        config.hook.pytest_deselected(items=outside)
        items[:] = [item for item in items if item not in outside]


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill uninitialised memory with NaN, so that an output nobody wrote can't pass."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
