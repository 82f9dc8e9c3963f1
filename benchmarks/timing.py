"""Time: several ways in turn, round by round, so that all of them see the same machine."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Mapping

from .cases import Call

SAMPLE = 2e-2
"""A sample lasts at least about so many seconds; a shorter call is repeated."""

WARMING = 1 / 8
"""How many calls, as a share of a sample's, go before it untimed, where it has more than one.

The first calls after another way's find neither its data nor its code in the caches. Of a compiled
graph the first takes twice the time, and the tenth a twentieth more.
"""

FEWEST, MOST = 5, 200
"""Rounds."""


def keep_freed_memory() -> None:
    """Let the process keep what it frees, where its C library can be told to (glibc).

    Else the kernel hands out and clears the pages of large tensors again and again, at a cost that
    depends on what ran before, and on a virtual machine can be many times that of the work.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        trim_threshold, mmap_threshold, most = -1, -3, 2**31 - 1
        if mallopt is not None:
            mallopt(trim_threshold, most)
            mallopt(mmap_threshold, most)


def interleave(calls: Mapping[str, Call], budget: float) -> dict[str, list[float]]:
    """Return the seconds a call took, a sample a round, by name; the calls are warm.

    There are as many rounds as fit into `budget` seconds, within `FEWEST` and `MOST`; every other
    one goes backwards, so that nothing always follows the same neighbour.
    """
    repeats = {name: _repeats(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    keep_freed_memory()
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(MOST):
            if done >= FEWEST and time.perf_counter() - start > budget:
                break
            for name in order:
                _repeat(calls[name], int(WARMING * repeats[name]))
                times[name].append(_seconds(calls[name], repeats[name]))
            order.reverse()
    finally:
        gc.enable()
    return times


def _repeats(call: Call) -> int:
    """Return how many calls make a sample."""
    repeats = 1
    while repeats * _seconds(call, repeats) < SAMPLE:
        repeats *= 2
    return repeats


def _seconds(call: Call, repeats: int) -> float:
    start = time.perf_counter()
    _repeat(call, repeats)
    return (time.perf_counter() - start) / repeats


def _repeat(call: Call, repeats: int) -> None:
    for _ in range(repeats):
        call()
