"""What every test starts from: one seed, one thread, poisoned memory; commands, a clock."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import torch

import interpreted
from straightthrough.cli import entry
from straightthrough.core import kernels

THREADS = 1  # the tensors are small; more would only wait for each other


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need what is not here, such as data from outside or a GPU."""
    here = {
        "shared": "STRAIGHTTHROUGH_DATA" in os.environ,
        "kernels": kernels.level is not None,
        "interpreter": kernels.level == kernels.INTERPRETER,
        "cuda": torch.cuda.is_available(),
        "device": "STRAIGHTTHROUGH_DEVICE" in os.environ,
    }
    missing = [name for name, available in here.items() if not available]
    left_out = [item for item in items if any(map(item.get_closest_marker, missing))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


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


@pytest.fixture(autouse=True)
def launches() -> Iterator[list[str]]:
    """The kernels for GPUs that were launched; none may read or write outside of its tensors."""
    if kernels.level != kernels.INTERPRETER:
        yield []
        return
    with interpreted.watched() as names:
        yield names


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Callable[[], None]], Command]:
    """Make of an entry point what runs it in this process: its exit code, stdout and stderr."""

    def made(main: Callable[[], None]) -> Command:
        def run(line: str, *arguments: object) -> tuple[int, str, str]:
            monkeypatch.delenv("COLUMNS", raising=False)  # which pytest-xdist sets
            monkeypatch.setattr(sys, "argv", ["command", *line.split(), *map(str, arguments)])
            with pytest.raises(SystemExit) as caught:
                main()
            code = caught.value.code
            return (0 if code is None else code), *capsys.readouterr()

        return run

    return made


@pytest.fixture
def cli(in_process: Callable[[Callable[[], None]], Command]) -> Command:
    """Run a command of `straightthrough` in this process."""
    return in_process(entry.main)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a clock that stands still but for what is added to it."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def ctrl_c() -> Callable[..., tuple[str, str]]:
    """Run a command, interrupt it once its progress matches `until`, and return out and err."""

    def run(
        line: str, until: str, main: tuple[str, str] = ("-m", "straightthrough")
    ) -> tuple[str, str]:
        process = subprocess.Popen(
            [sys.executable, *main, *line.split()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # rich then draws its bars though stderr is a pipe, so that progress shows.
            env={**os.environ, "TTY_COMPATIBLE": "1", "OMP_NUM_THREADS": "1"},
            # A shell's background jobs ignore Ctrl-C, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        with process:
            seen = ""
            while not re.search(until, seen) and process.poll() is None:
                seen += process.stderr.read(20)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
        assert process.returncode == 1, seen + err
        assert "Traceback" not in err
        return out, err

    return run
