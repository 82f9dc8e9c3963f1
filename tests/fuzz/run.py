"""A run over many cases, in a process that may crash or hang, and that can be resumed."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from straightthrough.core.progress import Notify, Progress, silent

LIMIT = 60.0
"""Seconds that a case may take, with what the worker needs to start."""

MOST_FAILURES = 100
SAVED_EVERY = 0.5


@dataclass
class State:
    """How far a run is: the first case that is not done, what failed, and the seconds it took."""

    next: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self)), encoding="utf-8")
        fresh.replace(file)


def load(file: Path) -> State:
    """Return the state of a run that was stopped, or that of a new one."""
    return State(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else State()


def worker(first: int, total: int) -> list[str]:
    """Return the command that names each case before it begins, and what is wrong after it."""
    return [sys.executable, "-m", "fuzz", "--worker", str(first), "--cases", str(total)]


def run(
    total: int,
    file: Path,
    notify: Notify = silent,
    say: Callable[[str], object] = print,
    command: Callable[[int, int], Sequence[str]] = worker,
    limit: float = LIMIT,
) -> State:
    """Run the cases up to `total`, from where `file` says that another run was stopped."""
    state = load(file)
    before, began, saved = state.seconds, time.monotonic(), 0.0
    while state.next < total and len(state.failed) < MOST_FAILURES:
        for number, text in _events(command(state.next, total), limit):
            state.next = number
            if text:
                state.next += 1
                state.failed.append(f"case {number}: {text}")
            state.seconds = before + time.monotonic() - began
            if text or state.seconds > saved + SAVED_EVERY or number == total:
                saved = state.seconds
                state.save(file)
                notify(Progress("fuzz", state.next, total, f"{len(state.failed)} failed"))
            if text:
                say(state.failed[-1])
            if len(state.failed) == MOST_FAILURES:
                break
    file.unlink(missing_ok=True)
    return state


def _events(command: Sequence[str], limit: float) -> Iterator[tuple[int, str]]:
    """Yield what a worker says: the number of each case as it begins, again with what is wrong.

    A case is wrong too if the process ends in it, or takes longer over it than the limit.
    """
    number, rest, why = None, b"", f"took longer than {limit:g} s"
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            while select.select([process.stdout], [], [], limit)[0]:
                said = os.read(process.stdout.fileno(), 65536)
                if not said:
                    why = f"ended the process with {code}" if (code := process.wait()) else ""
                    break
                *lines, rest = (rest + said).split(b"\n")
                for line in lines:
                    first, _, text = line.decode().partition(" ")
                    number = int(first)
                    yield number, text
        finally:
            process.kill()
    if why and number is None:
        raise RuntimeError(f"no case was begun: {' '.join(command)} {why}")
    if why:
        yield number, why
