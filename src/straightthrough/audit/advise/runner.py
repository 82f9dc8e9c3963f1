"""The candidates of a race of estimators, and what is known of each."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, stdev

import torch
from torch import Tensor

from ...core.errors import ArgumentError
from ...core.registry import RULES, resolve
from ...core.rules import Rule
from ...estimators import CategoricalEstimator
from ..compare.row import Row
from .candidate import Candidate

TEMPERATURES = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
"""That are tried besides a rule's own."""

LONG = 0.1
"""Seconds after which a call is not timed once more."""


def candidates(
    given: Sequence[CategoricalEstimator | str] | None,
) -> Iterator[tuple[str, CategoricalEstimator]]:
    """Yield names and rules: those given, a shorthand at several temperatures; by default all."""
    if given is None:
        given = [
            name for name, record in RULES.items() if issubclass(record.type, CategoricalEstimator)
        ]
    elif isinstance(given, str | Rule) or not given:
        raise ArgumentError(
            f"estimators must be a list of rules or shorthands, such as ['reinmax'], got {given!r}"
        )
    names = {record.type: name for name, record in RULES.items()}
    for each in given:
        if isinstance(each, CategoricalEstimator):
            yield names.get(type(each), type(each).__name__), each
        else:
            rule = resolve("estimators", each, CategoricalEstimator)
            yield from ((each, variant) for variant in _at_temperatures(rule))


def _at_temperatures(rule: CategoricalEstimator) -> Iterator[CategoricalEstimator]:
    """Yield a rule at all temperatures that it takes, or as it is if it has none."""
    own = vars(rule).get("tau")
    if not isinstance(own, float | int):
        yield rule
        return
    for tau in sorted({*TEMPERATURES, own}):
        try:
            yield dataclasses.replace(rule, tau=tau)  # type: ignore[type-var]  # all are dataclasses
        except ArgumentError:
            continue


class Runner:
    """One candidate and its audits so far.

    Attributes:
        seconds: of its backward at a batch.
        exact: whether one audit says all.
    """

    def __init__(self, name: str, rule: CategoricalEstimator, logits: Tensor, batch: int) -> None:
        self.name, self.rule, self.batch = name, rule, batch
        self.seconds = _backward(rule, logits, batch)
        self.exact = False
        self.rows: list[Row] = []

    @property
    def along(self) -> bool:
        """Whether the mean estimate points along the true gradient rather than away from it."""
        return fmean(row.cosine for row in self.rows) > 0

    @property
    def mse(self) -> float:
        """The mean squared error of a mean over the batch, averaged over audits."""
        return fmean(self._errors())

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence limits of `mse`, out of the scatter of the audits."""
        errors = self._errors()
        if self.exact:
            return errors[0], errors[0]
        half = student(len(errors) - 1) * stdev(errors) / math.sqrt(len(errors))
        return fmean(errors) - half, fmean(errors) + half

    def candidate(self) -> Candidate:
        """Return what there is to say about it."""
        bias_squared = fmean(row.bias_squared for row in self.rows)
        variance = fmean(row.variance for row in self.rows)
        return Candidate(
            name=self.name,
            rule=self.rule,
            tau=vars(self.rule).get("tau"),
            bias_squared=bias_squared,
            variance=variance,
            mse=self.mse,
            cosine=fmean(row.cosine for row in self.rows),
            seconds=self.seconds,
            interval=self.interval,
        )

    def _errors(self) -> list[float]:
        return [row.bias_squared + row.variance / self.batch for row in self.rows]


def _backward(rule: CategoricalEstimator, logits: Tensor, count: int) -> float:
    """Return the seconds of a call of the rule at `count` outcomes."""
    rows = logits.expand(count, *logits.shape).contiguous()
    index, grad = rows.argmax(-1), torch.ones_like(rows)
    return seconds_of(lambda: rule.vjp(rows, index, grad, seed=0), logits.device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, the least of three or, of a long one, of fewer."""

    def once() -> float:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    found = [once()]
    while len(found) < 3 and sum(found) < LONG:
        found.append(once())
    return min(found)


def student(freedom: int) -> float:
    """Return the 97.5% point of Student's t, by its expansion at the normal one's."""
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
