"""The categorical VAE, trained once for each estimator: our own settings, or those of a paper."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import straightthrough as st

from ...core.errors import ArgumentError
from ...core.progress import Notify, silent
from ..data import Data, Images, load
from ..journal import Journal
from ..record import Header, Pictures, pictures
from ..training import Trainer, check_epochs, named, threads, train
from .gradient import Error, errors, loss_with_control, loss_without_bias
from .model import ENUMERATED, CategoricalVAE, entropy
from .presets import Preset, choose

SHOWN = 8
"""Test images that are shown, each beside what its code decodes to."""

AUDITED = 32
"""Test images at which gradients are held against the exact one."""

EVALUATED = 10_000
"""Training images whose exact loss is taken, at most."""


@dataclass(frozen=True)
class Settings:
    """What the study is asked for.

    Attributes:
        data: the name of the data set; None for the preset's.
        folder: where it lies, if it is not scikit-learn's.
        estimators: shorthands from the registry; None for those of the preset.
        without_bias: those that are trained once more without their bias; None for those of the
            preset that are among the estimators.
        control: those that are trained once more with a control variate.
        seeds: one run each and estimator.
        epochs: None for the preset's.
        preset: what fixes the rest, a key of `PRESETS`; None for what suits the data.
    """

    data: str | None = None
    folder: str | None = None
    estimators: Sequence[str] | None = None
    without_bias: Sequence[str] | None = None
    control: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    epochs: int | None = None
    preset: str | None = None


@dataclass
class Point:
    """One moment of a run, in nats.

    `train` and `test`, both -ELBO, are exact where the code's outcomes can be enumerated, else of
    one draw an image. `sampled` is what papers report: the mean over the epoch that ends here, one
    draw an image, while the weights moved. `entropy` is that of the code, of the test images.
    `errors` are those of every estimator of the study on the model as it is here, by shorthand;
    they are taken after training, and once a seed before. What was not measured is NaN, or absent.
    """

    epoch: int
    train: float
    test: float
    sampled: float
    entropy: float
    errors: dict[str, Error]
    seconds: float


@dataclass
class Run:
    """One training: estimator, seed, and what came of it.

    `published` is the `sampled` that a paper ends with.
    """

    estimator: str
    rule: str
    without_bias: bool
    seed: int
    rate: float
    published: float | None = None
    points: list[Point] = field(default_factory=list)
    reconstructions: Pictures | None = None
    samples: Pictures | None = None


@dataclass
class Result:
    """All runs of the study, and some test images beside their reconstructions.

    `tuning` says where temperatures and learning rates are from, `source` published numbers.
    `evaluated` is the number of training images whose loss is taken, `audited` that of test images
    whose gradients are.
    """

    header: Header
    settings: Settings
    images: Images
    evaluated: int
    audited: int
    latents: int
    categories: int
    tuning: str
    source: str | None = None
    parameters: int = 0
    exact: bool = True
    originals: Pictures | None = None
    runs: list[Run] = field(default_factory=list)


class _Trainer(Trainer):
    """One run."""

    def __init__(
        self,
        data: Data,
        preset: Preset,
        epochs: int,
        name: str,
        seed: int,
        *,
        without_bias: bool = False,
        control: bool = False,
        audited: Sequence[str] = (),
        untrained: bool = True,
    ) -> None:
        torch.manual_seed(seed)
        self.preset, self.epochs, self.untrained = preset, epochs, untrained
        self.rules = {each: preset.rule(each).rule for each in audited}
        self.train, self.test = data.train.flatten(1), data.test.flatten(1)
        self.size = data.train.shape[1:]
        tuned = preset.rule(name)
        self.rule, self.rate = tuned.rule, tuned.rate
        self.model = CategoricalVAE(
            data.pixels, preset.hidden, preset.latents, preset.categories, preset.activation
        )
        self.without_bias, self.control = without_bias, control
        variate = st.nn.ControlVariate((preset.latents, preset.categories)) if control else None
        self.sample = st.nn.Categorical(tuned.rule, control=variate)
        shown = named(name, repr(tuned.rule), control)
        published = None if without_bias or control else tuned.published
        super().__init__(
            f"{shown[0]}, seed {seed}" + ", without bias" * without_bias,
            [Run(*shown, without_bias, seed, tuned.rate, published)],
            preset.optimizer(self.model.parameters(), tuned.rate),
        )

    def epoch(self) -> list[float]:
        share = self.preset.schedule(self.done, self.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = share * self.rate
        total = 0.0
        for batch in torch.randperm(len(self.train)).split(self.preset.batch):
            self.optimizer.zero_grad()
            losses = self._losses(self.train[batch])
            losses.mean().backward()
            for _ in range(self.preset.repeats):
                self.optimizer.step()
            total += losses.sum().item()
        return [total / len(self.train)]

    def _losses(self, images: Tensor) -> Tensor:
        if self.without_bias:
            return loss_without_bias(self.model, images, self.rule)
        if self.control:
            return loss_with_control(self.model, images, self.sample)
        return self.model.loss(images, self.rule)

    def measure(self, last: bool) -> tuple[list[Point], str]:
        (run,) = self.runs
        audited = last or (self.untrained and not self.done)
        with torch.no_grad():
            code = self.model.encoder(self.test)
            run.reconstructions = self._decode(st.argmax(code[:SHOWN]))
            prior = torch.zeros(64, self.preset.latents, self.preset.categories)
            run.samples = self._decode(st.categorical(prior, seed=0))
        point = Point(
            epoch=self.done,
            train=self.model.mean_loss(self.train[:EVALUATED]),
            test=self.model.mean_loss(self.test),
            sampled=self.losses[0],
            entropy=float(entropy(code).mean()),
            errors=errors(self.model, self.test[:AUDITED], self.rules) if audited else {},
            seconds=self.seconds,
        )
        return [point], f"test -ELBO {point.test:.2f}"

    def _decode(self, code: Tensor) -> Pictures:
        return pictures(self.model.decoder(code).sigmoid().reshape(-1, *self.size))

    def state(self) -> dict[str, Any]:
        return {**super().state(), "sample": copy.deepcopy(self.sample.state_dict())}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.sample.load_state_dict(copy.deepcopy(state["sample"]))


def run(settings: Settings, notify: Notify = silent, journal: Journal | None = None) -> Result:
    """Train every estimator from every seed; Ctrl-C ends it with what there is by then.

    Raises:
        ArgumentError: if an estimator, the data or the preset is unknown, the preset is not for
            that data or has too many outcomes for a training without bias, epochs is below 1, or
            the journal has nothing to resume.
        DataError: if the data cannot be read.
    """
    check_epochs(settings.epochs)
    preset, name = choose(settings.preset, settings.data)
    estimators = preset.estimators if settings.estimators is None else settings.estimators
    without_bias = _without_bias(settings, preset, estimators)
    epochs = settings.epochs or preset.epochs
    data, journal = load(name, settings.folder), journal or Journal()
    with threads(preset.threads):
        result = Result(
            Header("vae"),
            replace(
                settings, data=name, estimators=estimators, without_bias=without_bias, epochs=epochs
            ),
            data.facts,
            min(len(data.train), EVALUATED),
            min(len(data.test), AUDITED),
            preset.latents,
            preset.categories,
            preset.tuning,
            preset.source,
            originals=pictures(data.test[:SHOWN]),
        )
        with journal.keep(result):
            ways = [
                *((each, False, False) for each in estimators),
                *((each, True, False) for each in settings.control),
                *((each, False, True) for each in without_bias),
            ]
            for (estimator, control, without), seed in itertools.product(ways, settings.seeds):
                trainer = _Trainer(
                    data,
                    preset,
                    epochs,
                    estimator,
                    seed,
                    without_bias=without,
                    control=control,
                    audited=estimators,
                    untrained=(estimator, control, without) == ways[0],
                )
                result.parameters = sum(p.numel() for p in trainer.model.parameters())
                result.exact = trainer.model.enumerable
                train(trainer, result.runs, epochs, notify, journal)
    return result


def _without_bias(settings: Settings, preset: Preset, estimators: Sequence[str]) -> Sequence[str]:
    """Return what is trained without its bias; check all names, and that there is a way."""
    chosen = settings.without_bias
    if chosen is None:
        chosen = [name for name in preset.without_bias if name in estimators]
    given = {"estimators": estimators, "without_bias": chosen, "control": settings.control}
    for argument, names in given.items():
        for name in names:
            preset.rule(name, argument)
    if chosen and preset.categories**preset.latents > ENUMERATED:
        raise ArgumentError(
            f"without_bias needs the exact gradient, and a code of {preset.latents} variables of "
            f"{preset.categories} classes has too many outcomes for it; leave it out"
        )
    return chosen
