"""The pixels that decide the class: k of them, chosen by scores that learn, or by a count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.errors import ArgumentError
from ...core.progress import Notify, silent
from ..data import Data, Images, load
from ..journal import Journal
from ..record import Header, Pictures, pictures
from ..training import Trainer, check_epochs, threads, train
from .model import FIXED, LARGE, LEARNED, METHODS, SMALL, Shape, batches, fitted, network

START = 0.01
"""The standard deviation of scores before training."""


@dataclass(frozen=True)
class Settings:
    """What the study is asked for.

    Attributes:
        data: the name of the data set.
        folder: where it lies, if it is not scikit-learn's.
        methods: names of `model.METHODS`.
        k: how many pixels; None for a number that suits the data.
        seeds: one run each, of every method.
        epochs: None for a number that suits the data.
    """

    data: str = "digits"
    folder: str | None = None
    methods: Sequence[str] = METHODS
    k: int | None = None
    seeds: Sequence[int] = (0,)
    epochs: int | None = None


@dataclass
class Point:
    """One moment of a run, in percent of the test images; `accuracy` and `fidelity` at its end.

    Attributes:
        together: the accuracy of the network that is trained with the scores.
        accuracy: of a new network that is fitted to the chosen pixels.
        fidelity: how often it says what one says that is fitted to all pixels.
    """

    epoch: int
    together: float
    accuracy: float
    fidelity: float
    seconds: float


@dataclass
class Run:
    """One training.

    Attributes:
        whole: the accuracy of the network that is fitted to all pixels, in percent.
        chosen: the pixels that the method ends with, row by row from the top.
    """

    method: str
    seed: int
    whole: float
    points: list[Point] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)


@dataclass
class Result:
    """All runs, and the mean of the training images."""

    header: Header
    settings: Settings
    images: Images
    mean: Pictures
    runs: list[Run] = field(default_factory=list)


class _Trainer(Trainer):
    """One run: scores of pixels, and the network that sees those of the k highest alone."""

    def __init__(
        self, data: Data, shape: Shape, method: str, k: int, seed: int, judged: Tensor
    ) -> None:
        torch.manual_seed(seed)
        self.data, self.shape, self.k, self.seed, self.judged = data, shape, k, seed, judged
        self.train, self.test = data.train.flatten(1), data.test.flatten(1)
        self.model = network(data.pixels, shape.hidden, data.classes)
        self.scores = (START * torch.randn(data.pixels)).requires_grad_()
        self.draw = LEARNED.get(method)
        self.fixed = FIXED[method](data, k, seed) if method in FIXED else None
        groups: list[dict[str, Any]] = [
            {"params": [*self.model.parameters()]},
            {"params": [self.scores], "lr": shape.score_rate},
        ]
        super().__init__(
            f"{method}, seed {seed}",
            [Run(method, seed, percent(judged == data.test_labels))],
            torch.optim.Adam(groups, shape.rate, fused=True),
        )

    def epoch(self) -> list[float]:
        for images, labels in batches(self.train, self.data.train_labels, self.shape.batch):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(images * self._mask(len(images))), labels).backward()
            self.optimizer.step()
        return []

    def _mask(self, images: int) -> Tensor:
        """Return which pixels are seen of so many images in training, drawn anew for each."""
        if self.draw is None:
            return self._seen(self._chosen())
        return self.draw(self.scores.expand(images, -1), self.k)

    def _chosen(self) -> Tensor:
        found = self.scores.topk(self.k).indices if self.fixed is None else self.fixed
        return found.sort().values

    def _seen(self, chosen: Tensor) -> Tensor:
        return torch.zeros(self.data.pixels).index_fill(0, chosen, 1.0)

    @torch.no_grad()
    def measure(self, last: bool) -> tuple[list[Point], str]:
        chosen, labels = self._chosen(), self.data.test_labels
        together = self.model(self.test * self._seen(chosen)).argmax(-1)
        point = Point(self.done, percent(together == labels), math.nan, math.nan, self.seconds)
        if last:
            said = fitted(self.data, chosen, self.shape, self.seed)
            point.accuracy, point.fidelity = percent(said == labels), percent(said == self.judged)
        self.runs[0].chosen = chosen.tolist()
        return [point], f"accuracy {percent(together == labels):.1f} %"


def percent(true: Tensor) -> float:
    """Return how many are true, in percent."""
    return 100 * float(true.double().mean())


def run(settings: Settings, notify: Notify = silent, journal: Journal | None = None) -> Result:
    """Choose pixels by every method from every seed.

    Ctrl-C ends it with what there is by then.

    Raises:
        ArgumentError: if the data or a method is unknown, k lies outside 1..pixels, epochs is below
            1, or the journal has nothing to resume.
        DataError: if the data cannot be read.
    """
    check_epochs(settings.epochs)
    for name in settings.methods:
        if name not in METHODS:
            raise ArgumentError(f"method {name!r} is unknown; known: {', '.join(METHODS)}")
    data = load(settings.data, settings.folder)
    small = data.pixels < 28 * 28
    shape = SMALL if small else LARGE
    epochs, k = settings.epochs or shape.epochs, shape.k if settings.k is None else settings.k
    if not 1 <= k <= data.pixels:
        raise ArgumentError(f"k must lie in 1..{data.pixels}, the number of pixels, got {k}")
    journal = journal or Journal()
    with threads(1 if small else None):
        every = torch.arange(data.pixels)
        judged = {seed: fitted(data, every, shape, seed) for seed in settings.seeds}
        result = Result(
            Header("select"),
            replace(settings, epochs=epochs, k=k),
            data.facts,
            pictures(data.train.mean(0, keepdim=True)),
        )
        with journal.keep(result):
            for seed, method in itertools.product(settings.seeds, settings.methods):
                trainer = _Trainer(data, shape, method, k, seed, judged[seed])
                train(trainer, result.runs, epochs, notify, journal)
    return result
