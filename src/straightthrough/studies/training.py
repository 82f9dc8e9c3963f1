"""The loop that all studies share: epochs, checkpoints, progress, Ctrl-C, and going on after it."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..core.errors import ArgumentError
from ..core.progress import Notify, Progress
from ..report.runs import identity
from .journal import Journal

CHECKPOINTS = 10


class Trainer(ABC):
    """One training, and the runs that record it: one, or several side by side.

    Attributes:
        label: names it.
        optimizer: holds every weight.
        done: epochs so far.
        losses: what the last epoch returned, NaN before the first.
        seconds: of training alone.
    """

    def __init__(self, label: str, runs: Sequence[Any], optimizer: torch.optim.Optimizer) -> None:
        self.label, self.runs, self.optimizer = label, list(runs), optimizer
        self.done, self.losses, self.seconds = 0, [float("nan")] * len(runs), 0.0

    @abstractmethod
    def epoch(self) -> list[float]:
        """Train for one epoch, and return its mean losses, if the study records them."""

    @abstractmethod
    def measure(self, last: bool) -> tuple[list[Any], str]:
        """Return a point a run, and what they say in a few words; `last` if none may follow."""

    def advance(self) -> None:
        """Train for one epoch, and time it."""
        start = time.perf_counter()
        self.losses = self.epoch()
        self.seconds += time.perf_counter() - start
        self.done += 1

    def checkpoint(self, *, last: bool) -> str:
        """Measure and record, in the place of what was recorded of this epoch."""
        points, text = self.measure(last)
        for run, point in zip(self.runs, points, strict=True):
            run.points = [*(p for p in run.points if p.epoch < self.done), point]
        return text

    def state(self) -> dict[str, Any]:
        """Return a copy of all that training goes on from."""
        return {
            "label": self.label,
            "done": self.done,
            "losses": self.losses,
            "seconds": self.seconds,
            "weights": [weight.detach().clone() for weight in self._weights()],
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "random": torch.get_rng_state(),
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.done, self.losses, self.seconds = state["done"], state["losses"], state["seconds"]
        for weight, saved in zip(self._weights(), state["weights"], strict=True):
            weight.copy_(saved)
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        torch.set_rng_state(state["random"])

    def _weights(self) -> Iterator[torch.Tensor]:
        return (weight for group in self.optimizer.param_groups for weight in group["params"])


def train(
    trainer: Trainer, record: list[Any], epochs: int, notify: Notify, journal: Journal
) -> None:
    """Train to so many epochs, with checkpoints evenly among them, the first before all.

    The trainer's runs are added to `record`, or go on where those there ended. Ctrl-C takes back
    the epoch that is under way, and a last checkpoint says how far it got.
    """
    every = -(-epochs // CHECKPOINTS)
    _join(trainer, record)
    if all(run.points and run.points[-1].epoch == epochs for run in trainer.runs):
        return
    if saved := journal.state(trainer.label):
        with journal.blaming_state():
            trainer.load(saved)
    for run in trainer.runs:
        # Those of an interrupt lie beside the even ones.
        run.points = [p for p in run.points if p.epoch < trainer.done and p.epoch % every == 0]
    state, text = trainer.state(), ""
    try:
        while True:
            end = trainer.done == epochs
            if end or trainer.done % every == 0:
                text = trainer.checkpoint(last=end)
                journal.write(state)
            notify(Progress(trainer.label, trainer.done, epochs, text))
            if end:
                return
            trainer.advance()
            state = trainer.state()
    except KeyboardInterrupt:
        trainer.load(state)
        trainer.checkpoint(last=True)
        journal.write(state)
        raise


def _join(trainer: Trainer, record: list[Any]) -> None:
    """Put the trainer's runs into the record, or those of the record into the trainer."""
    known = {tuple(identity(vars(run)).items()): run for run in record}
    for place, run in enumerate(trainer.runs):
        trainer.runs[place] = known.get(tuple(identity(vars(run)).items()), run)
        if trainer.runs[place] is run:
            record.append(run)


def named(estimator: str, rule: str, control: bool) -> tuple[str, str]:
    """Return what a run is called in the record and on the page, with a control variate or not."""
    return (f"{estimator}+control", f"{rule}, control variate") if control else (estimator, rule)


def check_epochs(epochs: int | None) -> None:
    """Raise `ArgumentError` unless epochs is None or at least 1."""
    if epochs is not None and epochs < 1:
        raise ArgumentError(f"epochs must be at least 1, got {epochs}")


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Let torch use so many threads inside; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
