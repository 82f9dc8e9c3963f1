"""Polynomial programming: minimise `E |z - 0.45|^p`, z numbers that 128 draws of 4 classes pick."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import straightthrough as st

from ...core.errors import ArgumentError
from ...core.progress import Notify, silent
from ...core.registry import resolve
from ..journal import Journal
from ..one_hots import one_hot_rules
from ..record import Header
from ..training import Trainer, check_epochs, named, threads, train

LATENTS, CATEGORIES, BATCH = 128, 4, 8
STEPS, RATE = 200, 1e-3
START = 0.01
TARGET = 0.45

EXACT = "exact"
"""Stands among the estimators for the gradient of the expected loss itself."""

PUBLISHED = {
    "straight_through": {1.5: 0.2272, 2.0: 0.1480, 3.0: 0.0688},
    "gumbel": {1.5: 0.0203, 2.0: 0.0075, 3.0: 0.0025},
    "gumbel_rao": {1.5: 0.0156, 2.0: 0.0045, 3.0: 0.0008},
    "reinmax": {1.5: 0.0152, 2.0: 0.0043, 3.0: 0.0007},
    "mve": {1.5: 0.0152, 2.0: 0.0044, 3.0: 0.0008},
}
"""Mean loss of the last of 50 epochs by estimator and power, to four decimals.

Hooper, Shekhovtsov, "Generalized and optimal straight-through estimators", 2026.
"""

_EVERY = {
    **one_hot_rules(),
    "gumbel": st.estimators.GumbelST(tau=0.1),
    "gumbel_rao": st.estimators.GumbelRao(tau=0.1, samples=20),
    "mve": st.estimators.MVE(tau=1e6),
}
RULES = {name: _EVERY[name] for name in dict.fromkeys((*PUBLISHED, *_EVERY))}
"""Every estimator, the first five as published; `mve_integer` is for equally spaced numbers."""

EPOCHS = 50
"""As published."""


@dataclass(frozen=True)
class Settings:
    """What the study is asked for.

    Attributes:
        powers: exponents p of the loss, above 0; a step trains one model for each.
        estimators: shorthands from the registry, or `"exact"`.
        control: those that are trained once more with a control variate.
        seeds: one run each, estimator and power.
        epochs: of 200 steps.
    """

    powers: Sequence[float] = (1.5, 2.0, 3.0)
    estimators: Sequence[str] = (EXACT, *RULES)
    control: Sequence[str] = ()
    seeds: Sequence[int] = (1,)
    epochs: int = EPOCHS


@dataclass
class Point:
    """One moment of a run: the mean sampled loss of the epoch before, and the expected loss."""

    epoch: int
    loss: float
    expected: float
    seconds: float


@dataclass
class Run:
    """One model's training; `seconds` of its points are its share of the powers' common steps."""

    estimator: str
    rule: str
    power: float
    seed: int
    points: list[Point] = field(default_factory=list)


@dataclass
class Optimum:
    """The least expected loss, that of draws which are certain, and what was published."""

    power: float
    loss: float
    published: dict[str, float]


@dataclass
class Result:
    """All runs, and what they are held against."""

    header: Header
    settings: Settings
    optima: list[Optimum] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


def numbers() -> Tensor:
    """Return the number of each class, `(4,)` in [0, 1]."""
    drawn = torch.randn(CATEGORIES, generator=torch.Generator().manual_seed(0))
    return (drawn - drawn.min()) / (drawn.max() - drawn.min())


class _Trainer(Trainer):
    """One estimator and seed: a model for each power, `(powers, 1, LATENTS, CATEGORIES)`."""

    def __init__(
        self, powers: Sequence[float], name: str, seed: int, *, control: bool = False
    ) -> None:
        torch.manual_seed(seed)
        self.rule = _rule(name)
        shown = named(name, "exact gradient" if self.rule is None else repr(self.rule), control)
        self.numbers = numbers()
        self.sample = None
        if control and self.rule:
            variate = st.nn.ControlVariate((len(powers), LATENTS, CATEGORIES))
            self.sample = st.nn.Categorical(self.rule, control=variate)
        self.powers = torch.tensor(powers).reshape(-1, 1, 1)
        self.costs = (self.numbers - TARGET).abs() ** self.powers.unsqueeze(-1)
        start = START * (2 * torch.rand(LATENTS, CATEGORIES) - 1)
        self.logits = start.repeat(len(powers), 1, 1, 1).requires_grad_()
        super().__init__(
            f"{shown[0]}, seed {seed}",
            [Run(*shown, power, seed) for power in powers],
            torch.optim.Adam([self.logits], RATE, fused=True),
        )

    def epoch(self) -> list[float]:
        total = torch.zeros(len(self.runs))
        for _ in range(STEPS):
            self.optimizer.zero_grad()
            losses = self._losses()
            losses.sum().backward()  # the models share no parameter
            self.optimizer.step()
            total += losses.detach()
        return [loss / STEPS for loss in total.tolist()]

    def _losses(self) -> Tensor:
        """Return the mean loss of each model over a batch of draws, or its expectation."""
        if self.rule is None:
            return self._expected(self.logits)
        logits = self.logits.expand(-1, BATCH, -1, -1)
        z = self._draw(logits, self.rule) @ self.numbers
        return ((z - TARGET).abs() ** self.powers).mean((1, 2))

    def _draw(self, logits: Tensor, rule: st.estimators.CategoricalEstimator) -> Tensor:
        if self.sample is None:
            return st.categorical(logits, rule)
        # A model's averages are its own, and over the batch, which therefore comes first.
        drawn: Tensor = self.sample(logits.transpose(0, 1))
        return drawn.transpose(0, 1)

    def _expected(self, logits: Tensor) -> Tensor:
        return (logits.softmax(-1) * self.costs).sum(-1).mean((1, 2))

    @torch.no_grad()
    def measure(self, last: bool) -> tuple[list[Point], str]:
        tau = 1.0 if self.rule is None else self.rule.tau_forward
        expected = self._expected(self.logits.double() / tau).tolist()
        seconds = self.seconds / len(self.runs)
        points = [
            Point(self.done, loss, exact, seconds)
            for loss, exact in zip(self.losses, expected, strict=True)
        ]
        return points, "expected loss " + " / ".join(f"{exact:.4f}" for exact in expected)

    def state(self) -> dict[str, Any]:
        kept = self.sample.state_dict() if self.sample else {}
        return {**super().state(), "sample": copy.deepcopy(kept)}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        if self.sample:
            self.sample.load_state_dict(copy.deepcopy(state["sample"]))


def _rule(name: str, argument: str = "estimators") -> st.estimators.CategoricalEstimator | None:
    if name == EXACT:
        return None
    if name == "mve_integer":
        raise ArgumentError(
            "mve_integer is for outcomes that are the numbers 0, 1, 2, ..., and this study's are "
            "not equally spaced; use mve"
        )
    return RULES.get(name) or resolve(argument, name, st.estimators.CategoricalEstimator)


def run(settings: Settings, notify: Notify = silent, journal: Journal | None = None) -> Result:
    """Train with every estimator from every seed; Ctrl-C ends it with what there is by then.

    A run is fixed by its seed and the list of powers, which are trained side by side.

    Raises:
        ArgumentError: if an estimator is unknown or of no use here, a power is not a number above
            0 or is there twice, epochs is below 1, or the journal has nothing to resume.
    """
    check_epochs(settings.epochs)
    _check_powers(settings.powers)
    for name in settings.estimators:
        _rule(name)
    for name in settings.control:
        if _rule(name, "control") is None:
            raise ArgumentError(f"{name} draws nothing, and has no use for a control variate")
    journal = journal or Journal()
    with threads(1):
        result = Result(Header("polynomial"), settings)
        for power in settings.powers:
            least = float(((numbers().double() - TARGET).abs() ** power).min())
            known = PUBLISHED if settings.epochs == EPOCHS else {}
            published = {name: losses[power] for name, losses in known.items() if power in losses}
            result.optima.append(Optimum(power, least, published))
        with journal.keep(result):
            ways = [(name, False) for name in settings.estimators]
            ways += [(name, True) for name in settings.control]
            for (name, control), seed in itertools.product(ways, settings.seeds):
                trainer = _Trainer(settings.powers, name, seed, control=control)
                train(trainer, result.runs, settings.epochs, notify, journal)
    return result


def _check_powers(powers: Sequence[float]) -> None:
    fine = all(0 < power < math.inf for power in powers)
    if not powers or not fine or len(set(powers)) < len(powers):
        raise ArgumentError(
            f"powers must be different numbers above 0, such as 1.5, 2, 3, got {list(powers)}"
        )
