"""The categorical VAE, trained once for each estimator: our own settings, or those of a paper."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

import straightthrough as st

from ...core.progress import Notify, silent
from ..data import Data, load
from ..record import Header, Pictures, pictures, recording
from ..training import check_epochs, threads, train
from .model import CategoricalVAE, gradient_cosines
from .presets import Preset, choose

AUDITED = 8
"""Test images whose exact gradient is taken; as many are shown."""

EVALUATED = 10_000
"""Training images whose exact loss is taken, at most."""


@dataclass(frozen=True)
class Settings:
    """What the study is asked for.

    Attributes:
        data: the name of the data set; None for the preset's.
        folder: where it lies, if it is not scikit-learn's.
        estimators: shorthands from the registry; None for those of the preset.
        seeds: one run each and estimator.
        epochs: None for the preset's.
        preset: what fixes the rest, a key of `PRESETS`; None for what suits the data.
    """

    data: str | None = None
    folder: str | None = None
    estimators: Sequence[str] | None = None
    seeds: Sequence[int] = (0,)
    epochs: int | None = None
    preset: str | None = None


@dataclass
class Point:
    """One moment of a run: -ELBO in nats an image, and cosines to the exact gradient.

    `train` and `test` are exact where the code's outcomes can be enumerated, else of one draw an
    image. `sampled` is what papers report: the mean over the epoch that ends here, one draw an
    image, while the weights moved. What was not measured is NaN.
    """

    epoch: int
    train: float
    test: float
    sampled: float
    cosine: float
    mean_cosine: float
    seconds: float


@dataclass
class Run:
    """One training: estimator, seed, and what came of it. `seconds` is training alone.

    `published` is the `sampled` that a paper ends with.
    """

    estimator: str
    rule: str
    seed: int
    rate: float
    published: float | None = None
    points: list[Point] = field(default_factory=list)
    reconstructions: Pictures | None = None
    samples: Pictures | None = None


@dataclass
class Result:
    """All runs of the study, and some test images beside their reconstructions."""

    header: Header
    settings: Settings
    latents: int = 0
    categories: int = 0
    parameters: int = 0
    exact: bool = True
    source: str | None = None
    originals: Pictures | None = None
    runs: list[Run] = field(default_factory=list)


class _Trainer:
    """One run: the model, its optimizer, and the record that grows with it."""

    def __init__(self, data: Data, preset: Preset, epochs: int, name: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.label = f"{name}, seed {seed}"
        self.preset, self.epochs = preset, epochs
        self.train, self.test = data.train.flatten(1), data.test.flatten(1)
        self.size = data.train.shape[1:]
        tuned = preset.rule(name)
        self.rule = tuned.rule
        self.model = CategoricalVAE(
            data.pixels, preset.hidden, preset.latents, preset.categories, preset.activation
        )
        self.run = Run(name, repr(tuned.rule), seed, tuned.rate, tuned.published)
        self.optimizer = preset.optimizer(self.model.parameters(), tuned.rate)
        self.epochs_done, self.sampled, self.seconds = 0, math.nan, 0.0

    def epoch(self) -> None:
        start = time.perf_counter()
        share = self.preset.schedule(self.epochs_done, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.run.rate
        total = 0.0
        for batch in torch.randperm(len(self.train)).split(self.preset.batch):
            self.optimizer.zero_grad()
            losses = self.model.loss(self.train[batch], self.rule)
            losses.mean().backward()
            for _ in range(self.preset.repeats):
                self.optimizer.step()
            total += losses.sum().item()
        self.sampled = total / len(self.train)
        self.epochs_done += 1
        self.seconds += time.perf_counter() - start

    def checkpoint(self, epoch: int) -> str:
        shown = self.test[:AUDITED]
        cosine, mean_cosine = gradient_cosines(self.model, shown, self.rule)
        point = Point(
            epoch=epoch,
            train=self.model.mean_loss(self.train[:EVALUATED]),
            test=self.model.mean_loss(self.test),
            sampled=self.sampled,
            cosine=cosine,
            mean_cosine=mean_cosine,
            seconds=self.seconds,
        )
        with torch.no_grad():
            self.run.reconstructions = self._decode(st.argmax(self.model.encoder(shown)))
            prior = torch.zeros(64, self.preset.latents, self.preset.categories)
            self.run.samples = self._decode(st.categorical(prior, seed=0))
        self.run.points.append(point)
        return f"test -ELBO {point.test:.2f}"

    def _decode(self, code: torch.Tensor) -> Pictures:
        return pictures(self.model.decoder(code).sigmoid().reshape(-1, *self.size))


def run(settings: Settings, notify: Notify = silent) -> Result:
    """Train every estimator from every seed; Ctrl-C ends it with what there is by then.

    Raises:
        ArgumentError: if an estimator, the data or the preset is unknown, the preset is not for
            that data, or epochs is below 1.
        DataError: if the data cannot be read.
    """
    check_epochs(settings.epochs)
    preset, name = choose(settings.preset, settings.data)
    estimators = preset.estimators if settings.estimators is None else settings.estimators
    for estimator in estimators:
        preset.rule(estimator)
    data = load(name, settings.folder)
    epochs = settings.epochs or preset.epochs
    asked = replace(settings, data=name, estimators=estimators, epochs=epochs)
    with threads(preset.threads):
        result = Result(Header("vae"), asked, preset.latents, preset.categories)
        result.source, result.originals = preset.source, pictures(data.test[:AUDITED])
        with recording(result.header):
            for estimator, seed in itertools.product(estimators, settings.seeds):
                trainer = _Trainer(data, preset, epochs, estimator, seed)
                result.parameters = sum(p.numel() for p in trainer.model.parameters())
                result.exact = trainer.model.enumerable
                result.runs.append(trainer.run)
                train(trainer, epochs, notify)
    return result
