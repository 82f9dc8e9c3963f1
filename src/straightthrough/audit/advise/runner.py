"""The candidates of a race of estimators, and what is known of each."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ...core.errors import ArgumentError
from ...core.registry import RULES, resolve
from ...estimators import CategoricalEstimator
from ..compare.moments import Moments, average, relative_squared_bias
from ..compare.row import Row
from .candidate import Candidate

DEFAULT = "reinmax"
"""The default of the categorical operators, which is the first of equals."""

TEMPERATURES = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
"""That are tried besides a rule's own."""

LONG = 0.1
"""Seconds after which a call is not timed once more, but for the second time."""


def candidates(
    given: Sequence[CategoricalEstimator | str] | None,
) -> Iterator[tuple[str, CategoricalEstimator]]:
    """Yield names and rules: those given, a shorthand at several temperatures; by default all.

    Of all, the one that is an operator's default comes first. What differs in its temperature alone
    has one name.
    """
    if given is None:
        fits = {n for n, record in RULES.items() if issubclass(record.type, CategoricalEstimator)}
        given = [DEFAULT, *(name for name in RULES if name in fits - {DEFAULT})]
    elif isinstance(given, str) or not isinstance(given, Iterable) or not given:
        raise ArgumentError(
            f"estimators must be a list of rules or shorthands, such as ['reinmax'], got {given!r}"
        )
    for each in given:
        if isinstance(each, CategoricalEstimator):
            yield _name(each), each
        else:
            rule = resolve("estimators", each, CategoricalEstimator)
            yield from ((each, variant) for variant in _at_temperatures(rule))


def _name(rule: CategoricalEstimator) -> str:
    """Return the shorthand, and those fields beside the temperature that have no default value."""
    names = {record.type: name for name, record in RULES.items()}
    own = [
        f"{field}={value!r}"
        for field, value in vars(rule).items()
        if field != "tau" and value != getattr(type(rule), field, None)
    ]
    name = names.get(type(rule), type(rule).__name__)
    return f"{name}({', '.join(own)})" if own else name


def _at_temperatures(rule: CategoricalEstimator) -> Iterator[CategoricalEstimator]:
    """Yield a rule at its own temperature, then at those it takes, the nearest first."""
    own = vars(rule).get("tau")
    if not isinstance(own, float | int):
        yield rule
        return
    for tau in sorted({*TEMPERATURES, own}, key=lambda tau: (abs(math.log(tau / own)), tau)):
        try:
            yield dataclasses.replace(rule, tau=tau)  # type: ignore[type-var]  # all are dataclasses
        except ArgumentError:
            continue


class Runner:
    """One candidate and its audits so far.

    Attributes:
        seconds: of its backward at a batch, the least that was seen.
        exact: whether one audit says all.
    """

    def __init__(
        self, name: str, rule: CategoricalEstimator, logits: Tensor, batch: int, rescale: bool
    ) -> None:
        self.name, self.rule, self.batch = name, rule, batch
        self._logits, self._rescale = logits, rescale
        self.seconds = math.inf
        self.time()
        self.exact = False
        self.rows: list[Row] = []

    def time(self) -> None:
        """Time its backward, once more where it was."""
        self.seconds = min(self.seconds, _backward(self.rule, self._logits, self.batch))

    @property
    def _moments(self) -> list[Moments]:
        return [row.moments for row in self.rows if row.moments]

    @property
    def along(self) -> bool:
        """Whether the mean estimate points along the true gradient rather than away from it."""
        return average(self._moments).cosine > 0

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence limits of the relative squared bias, out of the scatter of the audits.

        Draws that by chance agree may say that it is surely below 0, which no square is. NaN where
        there is no such number, as of a gradient of 0.
        """
        if self.exact:
            return (self.rows[0].relative_squared_bias,) * 2
        ratio, error = relative_squared_bias(self._moments, self._rescale)
        half = student(len(self.rows) - 1) * error
        return ratio - half, max(ratio + half, 0.0)

    def candidate(self) -> Candidate:
        """Return what there is to say about it."""
        bias_squared, variance, cosine = self._numbers()
        own = vars(self.rule.settled()).get("tau")
        return Candidate(
            name=self.name,
            rule=self.rule,
            tau=float(own) if isinstance(own, float | int) else None,
            bias_squared=bias_squared,
            variance=variance,
            mse=bias_squared + variance / self.batch,
            gradient_squared=average(self._moments).exact,
            cosine=cosine,
            interval=self.interval,
            seconds=self.seconds,
        )

    def _numbers(self) -> tuple[float, float, float]:
        """Return squared bias, variance and cosine, of scaled means that of their squared bias."""
        if self.exact:
            row = self.rows[0]
            return row.bias_squared, row.variance, row.cosine
        whole = average(self._moments)
        variance = whole.factor(self._rescale) ** 2 * whole.variance
        ratio, _ = relative_squared_bias(self._moments, self._rescale)
        if math.isnan(ratio):
            return whole.bias_squared(self._rescale), variance, whole.cosine
        scaled = self._rescale and whole.length > 0
        return ratio * whole.exact, variance, 1 - ratio / 2 if scaled else whole.cosine


def _backward(rule: CategoricalEstimator, logits: Tensor, count: int) -> float:
    """Return the seconds of a call of the rule at `count` outcomes."""
    rows = logits.expand(count, *logits.shape).contiguous()
    index, grad = rows.argmax(-1), torch.ones_like(rows)
    return seconds_of(lambda: rule.vjp(rows, index, grad, seed=0), logits.device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, the least of three or, of a long one, of two."""

    def once() -> float:
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    found = [once()]
    while len(found) < 2 or (len(found) < 3 and sum(found) < LONG):
        found.append(once())
    return min(found)


def student(freedom: int) -> float:
    """Return the 97.5% point of Student's t, by its expansion at the normal one's."""
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
