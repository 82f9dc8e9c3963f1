"""A run: which jobs, which ways, and the records that come of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core import kernels
from ..core.errors import ArgumentError
from ..studies.record import environment
from ..studies.training import threads
from .cases import COMPILED, MAIN, MODES, Call, Case, Shape, Way
from .gate import disagreement
from .memory import AVAILABLE, Memory, measure
from .results import QUANTILES, Job, Record
from .timing import interleave

DTYPE = torch.float32

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        shapes: of every case that has none of its own.
        threads: numbers of threads, each a run of its own.
        budget: seconds a job, at least (see `timing.FEWEST`).
        memory: whether memory is measured.
        compiled: whether torch.compile is timed, at `cases.MAIN`.
    """

    shapes: Sequence[Shape]
    threads: Sequence[int]
    budget: float = 1.5
    memory: bool = True
    compiled: bool = True

    def jobs(self, cases: Iterable[Case], own_shapes: bool) -> dict[Job, list[str]]:
        """Return every job with its ways; `own_shapes` of a case go before the plan's."""
        found = {}
        for case in cases:
            shapes = case.shapes if own_shapes and case.shapes else self.shapes
            for shape in shapes:
                ways = [
                    way
                    for way in case.ways()
                    if way != COMPILED or (self.compiled and shape in (MAIN, *(case.shapes or ())))
                ]
                for mode in MODES:
                    for number in self.threads:
                        found[job(case, mode, shape, number)] = ways
        return found


def job(case: Case, mode: str, shape: Shape, threads: int) -> Job:
    """Return a job in the one dtype that is timed."""
    return Job(case.name, mode, shape, str(DTYPE).removeprefix("torch."), threads)


def checked(cases: dict[str, Case], jobs: Iterable[Job]) -> dict[str, str]:
    """Return what is wrong with each case that must not be timed, by its name."""
    shapes: dict[str, dict[Shape, None]] = {}
    for each in jobs:
        shapes.setdefault(each.case, {})[each.shape] = None
    found = {name: disagreement(cases[name], tuple(listed)) for name, listed in shapes.items()}
    return {name: wrong for name, wrong in found.items() if wrong is not None}


def run(case: Case, job: Job, names: Sequence[str], plan: Plan, say: Say) -> Iterator[Record]:
    """Measure a case in the ways that are named; a way that fails is left out, and said so."""
    ways = {name: way for name, way in case.ways().items() if name in names}
    facts = environment()
    del facts["threads"]
    with threads(job.threads):
        calls = dict(_calls(case, job, ways, say))
        times = interleave(calls, plan.budget)
    for name, samples in times.items():
        quantiles = np.quantile(samples, [percent / 100 for percent in QUANTILES])
        memory = _memory(job, name) if plan.memory else None
        yield Record(
            job.case,
            name,
            job.mode,
            job.shape,
            job.dtype,
            job.threads,
            {str(q): float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
            len(samples),
            memory.extra if memory else None,
            memory.saved if memory else None,
            memory.resident if memory else None,
            kernels.level,
            facts,
        )


def _calls(case: Case, job: Job, ways: dict[str, Way], say: Say) -> Iterator[tuple[str, Call]]:
    inputs = case.inputs(job.shape)
    for name, way in ways.items():
        if job.mode not in way.modes():
            continue
        try:
            call = way.call(job.mode, inputs)
            call()
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            say(f"{job}: {name} is left out, as it fails: {reason}")
            continue
        yield name, call


def _memory(job: Job, way: str) -> Memory | None:
    """Measure on one thread whichever the job has; what torch.compile allocates is left out."""
    if not AVAILABLE or way == COMPILED or job.threads != 1:
        return None
    return measure(job.case, way, job.mode, job.shape)


def select(cases: dict[str, Case], names: Sequence[str]) -> dict[str, Case]:
    """Return the cases whose name, or the part before the rule, is one of `names`.

    Raises:
        ArgumentError: if a name is no case's.
    """
    known = {*cases, *(name.partition("-")[0] for name in cases)}
    for name in names:
        if name not in known:
            raise ArgumentError(f"{name!r} is no case; known: {', '.join(cases)}")
    return {
        name: case
        for name, case in cases.items()
        if name in names or name.partition("-")[0] in names
    }
