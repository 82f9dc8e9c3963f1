"""The loop that all studies share: epochs, checkpoints, progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from ..core.errors import ArgumentError
from ..core.progress import Notify, Progress

CHECKPOINTS = 10


class Trainer(Protocol):
    """One run of a study."""

    label: str

    def epoch(self) -> None:
        """Train for one epoch."""

    def checkpoint(self, epoch: int) -> str:
        """Measure, record what was measured, and return it in a few words."""


def train(trainer: Trainer, epochs: int, notify: Notify) -> None:
    """Train for so many epochs, with checkpoints evenly among them, the first before all."""
    every = -(-epochs // CHECKPOINTS)
    for epoch in range(epochs + 1):
        if epoch:
            trainer.epoch()
        if epoch % every == 0 or epoch == epochs:
            text = trainer.checkpoint(epoch)
        notify(Progress(trainer.label, epoch, epochs, text))


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
