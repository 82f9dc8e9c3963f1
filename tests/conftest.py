"""What every test starts from: one seed, one number of threads, poisoned memory; and `cli`."""

import os
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

from straightthrough.cli import __main__ as entry

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


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: its exit code, stdout and stderr."""

    def run(line: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["straightthrough", *line.split(), *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            entry.main()
        code = caught.value.code
        return (0 if code is None else code), *capsys.readouterr()

    return run
