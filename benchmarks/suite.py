"""A run: which jobs, which ways, and the records that come of them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from straightthrough.core import kernels
from straightthrough.core.errors import ArgumentError
from straightthrough.core.progress import Notify, Progress
from straightthrough.studies.record import environment
from straightthrough.studies.training import threads

from .cases import BOTH, COMPILED, GRAPH_WAYS, MODES, Call, Case, Way
from .gate import disagreement
from .memory import AVAILABLE, Memory, measure
from .results import QUANTILES, Job, Record
from .shapes import GRAPH, MAIN, SHAPES, Shape
from .targets import TARGETS
from .timing import interleave

DTYPE = "float32"
"""Of every measurement: what `cases.normal` makes."""

Jobs = dict[Job, list[str]]
"""Every job with the names of the ways to do it."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        threads: numbers of threads, each a measurement of its own.
        shapes: of every case; None for `usual`, or a case's own where it has some.
        usual: of the cases that have none of their own.
        budget: seconds a job, if `timing.FEWEST` rounds take no longer.
        memory: whether memory is measured.
        compiled: whether torch.compile is timed, at `shapes.MAIN` and at a case's own shapes.
    """

    threads: Sequence[int]
    shapes: Sequence[Shape] | None = None
    usual: Sequence[Shape] = SHAPES
    budget: float = 1.5
    memory: bool = True
    compiled: bool = True

    def jobs(self, cases: Iterable[Case]) -> Jobs:
        """Return every job with its ways."""
        found = {}
        for case in cases:
            for shape in self.shapes or case.shapes or self.usual:
                compiled = self.compiled and shape in (MAIN, *(case.shapes or ()))
                ways = [way for way in case.ways() if compiled or way != COMPILED]
                for mode in MODES:
                    found.update(self._on_threads(case.name, mode, shape, ways))
            if self.compiled and case.conformance and case.shapes is None and not self.shapes:
                ways = [*case.graph_ways()]
                found.update(self._on_threads(case.name, BOTH, GRAPH, ways))
        return found

    def target_jobs(self, cases: Container[str]) -> Jobs:
        """Return the jobs and ways that the targets of these cases need."""
        found: Jobs = {}
        for target in TARGETS:
            if target.case in cases:
                for job in self._on_threads(target.case, target.mode, target.shape, []):
                    ways = found.setdefault(job, [])
                    wanted = [
                        way
                        for way in target.ways
                        if self.compiled or way not in (COMPILED, *GRAPH_WAYS)
                    ]
                    ways += [way for way in wanted if way not in ways]
        return found

    def _on_threads(self, case: str, mode: str, shape: Shape, ways: list[str]) -> Jobs:
        return {Job(case, mode, shape, DTYPE, threads): ways for threads in self.threads}


def check(cases: dict[str, Case], jobs: Iterable[Job], notify: Notify) -> dict[str, str]:
    """Return what is wrong with each case that must not be timed, by its name."""
    shapes: dict[str, dict[Shape, None]] = {}
    for each in jobs:
        shapes.setdefault(each.case, {})[each.shape] = None
    found = {}
    for done, (name, listed) in enumerate(shapes.items(), 1):
        wrong = disagreement(cases[name], tuple(listed))
        if wrong is not None:
            found[name] = wrong
        notify(Progress("correctness", done, len(shapes), name))
    return found


def run(
    cases: dict[str, Case], jobs: Jobs, plan: Plan, notify: Notify, say: Say
) -> Iterator[Record]:
    """Measure every job in the ways named; what fails is left out, which is said."""
    for done, (each, names) in enumerate(jobs.items()):
        notify(Progress("measurements", done, len(jobs), str(each)))
        case = cases[each.case]
        every = {**case.ways(), **case.graph_ways()}
        ways = {name: every[name] for name in names if name in every}
        try:
            yield from _measure(cases[each.case], each, ways, plan, say)
        except Exception as error:
            say(f"{each} is left out, as it fails: {_first_line(error)}")
    notify(Progress("measurements", len(jobs), len(jobs), ""))


def _measure(case: Case, job: Job, ways: dict[str, Way], plan: Plan, say: Say) -> Iterator[Record]:
    facts = environment()
    del facts["threads"]  # a field of its own
    with threads(job.threads):
        times = interleave(dict(_calls(case, job, ways, say)), plan.budget)
    for name, samples in times.items():
        quantiles = np.quantile(samples, [percent / 100 for percent in QUANTILES])
        memory = _memory(job, name, say) if plan.memory else None
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
    torch.compiler.reset()
    for name, way in ways.items():
        if job.mode not in way.modes():
            continue
        try:
            call = way.call(job.mode, inputs)
            call()
        except Exception as error:
            say(f"{job}: {name} is left out, as it fails: {_first_line(error)}")
            continue
        yield name, call


def _memory(job: Job, way: str, say: Say) -> Memory | None:
    """Measure on one thread whichever the job has; what torch.compile allocates is left out."""
    if not AVAILABLE or way in (COMPILED, *GRAPH_WAYS) or job.threads != 1:
        return None
    try:
        return measure(job.case, way, job.mode, job.shape)
    except RuntimeError as error:
        say(f"{job}: the memory of {way} is left out, as {error}")
        return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def select(cases: dict[str, Case], names: Sequence[str]) -> dict[str, Case]:
    """Return the cases whose name, or the part of it before a hyphen, is one of `names`.

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
