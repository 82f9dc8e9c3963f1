"""The command of the benchmarks."""

import pytest

from benchmarks.__main__ import app
from straightthrough.cli.console import run


@pytest.fixture
def bench(in_process):
    """Run `python -m benchmarks` in this process."""
    return in_process(lambda: run(app, "python -m benchmarks"))
