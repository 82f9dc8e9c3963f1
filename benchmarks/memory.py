"""Memory: what a call allocates at its peak, in a process of its own."""

from __future__ import annotations

import multiprocessing
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from straightthrough.testing.values import saved_tensors

from .cases import BOTH, cases
from .shapes import Shape

AVAILABLE = "forkserver" in multiprocessing.get_all_start_methods()
"""Whether processes can be forked from a fresh one and say how large they grew; not on Windows."""


@dataclass(frozen=True)
class Memory:
    """Bytes beyond the inputs and the gradient that comes in.

    Attributes:
        extra: the peak of what torch's allocator held during the call, its results included.
        saved: what autograd kept between forward and backward.
        resident: the process's peak resident size during the call less its size before, so that
            memory outside of torch counts too, and what the allocator cannot use again.
    """

    extra: int
    saved: int
    resident: int


def measure(case: str, way: str, mode: str, shape: Shape) -> Memory:
    """Run one way of a case, by their names, on one thread in a new process.

    Raises:
        RuntimeError: if that process ends without a result, by an error or by a signal.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, f"{__package__}.preload"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, case, way, mode, shape))
    process.start()
    sender.close()
    try:
        found: Memory = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended early, with code {process.exitcode}") from None
    process.join()
    return found


def _child(sender: Connection, name: str, way: str, mode: str, shape: Shape) -> None:
    torch.set_num_threads(1)
    case = cases()[name]
    work = case.ways()[way]
    work.call(mode, case.inputs((2, *shape[1:])))()  # all that is made once
    call = work.call(mode, case.inputs(shape))
    before = _resident()
    call()
    resident = _peak_resident() - before
    saved = 0
    if mode == BOTH:
        with saved_tensors() as kept:
            call()
        saved = sum({t.untyped_storage().data_ptr(): t.nbytes for t in kept}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as trace:
        call()
    sender.send(Memory(_peak(trace), saved, resident))


def _peak(trace: profile) -> int:
    """Return the largest sum of allocations less deallocations, in the order they came."""
    recorded: list[Any] = trace.profiler.kineto_results.events()  # type: ignore[union-attr]  # it ran
    changes = [event for event in recorded if event.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def _resident() -> int:
    """Return the resident size now, which Linux alone tells; elsewhere its peak until now."""
    import resource  # not on Windows

    if not sys.platform.startswith("linux"):
        return _peak_resident()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _peak_resident() -> int:
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
