"""The categorical VAE: 4 latents of 8 categories, trained once for each estimator."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import straightthrough as st

from ..core.progress import Notify, silent
from ..core.registry import resolve
from .data import Data, load
from .record import Header, Pictures, pictures, recording
from .training import check_epochs, threads, train

LATENTS, CATEGORIES = 4, 8
BATCH = 100

TUNED = {
    "straight_through": (1e-3, st.estimators.StraightThrough(tau=1.3)),
    "gumbel": (3e-4, st.estimators.GumbelST(tau=0.5)),
    "reinmax": (5e-4, st.estimators.ReinMax(tau=1.3)),
}
"""Learning rate and temperature, as Liu et al. (2023) found them for this model on MNIST."""

DEFAULT_RATE = 5e-4


@dataclass(frozen=True)
class Shape:
    """What is fitted to the size of the images; small layers lose time to a second thread."""

    hidden: tuple[int, int]
    epochs: int
    rate_factor: float
    threads: int | None


# Digits give 15 steps an epoch where MNIST gives 600, so they take larger steps.
SMALL = Shape(hidden=(128, 64), epochs=250, rate_factor=4.0, threads=1)
LARGE = Shape(hidden=(512, 256), epochs=20, rate_factor=1.0, threads=None)


@dataclass(frozen=True)
class Settings:
    """What the study is asked for.

    Attributes:
        data: the name of the data set.
        folder: where it lies, if it is not scikit-learn's.
        estimators: shorthands from the registry.
        seeds: one run each and estimator.
        epochs: None for a number that suits the data.
    """

    data: str = "digits"
    folder: str | None = None
    estimators: Sequence[str] = tuple(TUNED)
    seeds: Sequence[int] = (0,)
    epochs: int | None = None


@dataclass
class Point:
    """One moment of a run: -ELBO in nats an image, exact, and cosines to the exact gradient."""

    epoch: int
    train: float
    test: float
    cosine: float
    mean_cosine: float
    seconds: float


@dataclass
class Run:
    """One training: estimator, seed, and what came of it. `seconds` is training alone."""

    estimator: str
    rule: str
    seed: int
    rate: float
    points: list[Point] = field(default_factory=list)
    reconstructions: Pictures | None = None
    samples: Pictures | None = None


@dataclass
class Result:
    """All runs of the study, and some test images beside their reconstructions."""

    header: Header
    settings: Settings
    parameters: int = 0
    originals: Pictures | None = None
    runs: list[Run] = field(default_factory=list)


class CategoricalVAE(nn.Module):
    """An encoder to logits `(N, LATENTS, CATEGORIES)` and a decoder from one-hots to pixels."""

    def __init__(self, pixels: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        wide, narrow = hidden
        code = LATENTS * CATEGORIES
        self.encoder = nn.Sequential(
            nn.Linear(pixels, wide),
            nn.ReLU(),
            nn.Linear(wide, narrow),
            nn.ReLU(),
            nn.Linear(narrow, code),
            nn.Unflatten(-1, (LATENTS, CATEGORIES)),
        )
        self.decoder = nn.Sequential(
            nn.Flatten(-2),
            nn.Linear(code, narrow),
            nn.ReLU(),
            nn.Linear(narrow, wide),
            nn.ReLU(),
            nn.Linear(wide, pixels),
        )

    def loss(self, images: Tensor, rule: st.estimators.Estimator) -> Tensor:
        """Return -ELBO, `(N,)`, with one draw an image."""
        logits = self.encoder(images)
        code = st.categorical(logits, rule)
        return reconstruction_loss(self.decoder(code), images) + divergence(logits)

    @torch.no_grad()
    def exact_loss(self, images: Tensor) -> float:
        """Return the mean -ELBO, the expectation taken over all outcomes."""
        codes = torch.cartesian_prod(*[torch.arange(CATEGORIES)] * LATENTS)
        pixels = self.decoder(F.one_hot(codes, CATEGORIES).float())
        constant = F.softplus(pixels).sum(-1)
        total = 0.0
        for block in images.split(1000):
            logits = self.encoder(block)
            q = torch.ones(len(block), 1)
            for p in logits.softmax(-1).unbind(1):
                q = (q.unsqueeze(-1) * p.unsqueeze(1)).flatten(1)
            expected = q @ constant - (q @ pixels * block).sum(-1) + divergence(logits)
            total += float(expected.sum(dtype=torch.float64))
        return total / len(images)


def reconstruction_loss(pixels: Tensor, images: Tensor) -> Tensor:
    """Return the cross-entropy of grey levels, summed over pixels."""
    return (F.softplus(pixels) - pixels * images).sum(-1)


def divergence(logits: Tensor) -> Tensor:
    """Return KL(q || uniform), summed over latents."""
    log_p = logits.log_softmax(-1)
    return (log_p.exp() * log_p).sum((-2, -1)) + LATENTS * math.log(CATEGORIES)


def gradient_cosines(
    model: CategoricalVAE, images: Tensor, rule: st.estimators.Estimator, draws: int = 64
) -> tuple[float, float]:
    """Return how well the estimated gradient points along the exact one: one draw, and the mean.

    The gradient is that of the reconstruction loss to the logits; the divergence has no draw.
    First, the cosine of what a training step gets: all images' gradients from one draw each, as
    one vector, averaged over `draws`. Second, that of the estimator's expectation, which
    only bias turns away, averaged over the images.
    """
    logits = model.encoder(images).detach()
    exact, of_mean = [], []
    for image, row in zip(images, logits, strict=True):

        def loss(code: Tensor, image: Tensor = image) -> Tensor:
            return reconstruction_loss(model.decoder(code), image)

        exact.append(st.audit.exact_gradient(loss, row))
        of_mean.append(st.audit.compare(loss, row, [rule], samples=1).rows[0].cosine)
    repeated = logits.repeat(draws, 1, 1, 1).requires_grad_()
    total = reconstruction_loss(model.decoder(st.categorical(repeated, rule, seed=0)), images).sum()
    (gradient,) = torch.autograd.grad(total, repeated)
    one_draw = F.cosine_similarity(gradient.flatten(1), torch.stack(exact).flatten(), dim=-1)
    return float(one_draw.mean()), statistics.mean(of_mean)


AUDITED = 8
"""Test images whose exact gradient is taken; as many are shown."""

EVALUATED = 10_000
"""Training images whose exact loss is taken, at most."""


class _Trainer:
    """One run: the model, its optimizer, and the record that grows with it."""

    def __init__(self, data: Data, shape: Shape, name: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.label = f"{name}, seed {seed}"
        rate, self.rule = _tuned(name)
        self.train, self.test = data.train.flatten(1), data.test.flatten(1)
        self.size = data.train.shape[1:]
        self.model = CategoricalVAE(data.pixels, shape.hidden)
        self.run = Run(name, repr(self.rule), seed, rate * shape.rate_factor)
        self.optimizer = torch.optim.Adam(self.model.parameters(), self.run.rate, fused=True)
        self.seconds = 0.0

    def epoch(self) -> None:
        start = time.perf_counter()
        for batch in torch.randperm(len(self.train)).split(BATCH):
            self.optimizer.zero_grad()
            self.model.loss(self.train[batch], self.rule).mean().backward()
            self.optimizer.step()
        self.seconds += time.perf_counter() - start

    def checkpoint(self, epoch: int) -> str:
        shown = self.test[:AUDITED]
        cosine, mean_cosine = gradient_cosines(self.model, shown, self.rule)
        point = Point(
            epoch=epoch,
            train=self.model.exact_loss(self.train[:EVALUATED]),
            test=self.model.exact_loss(self.test),
            cosine=cosine,
            mean_cosine=mean_cosine,
            seconds=self.seconds,
        )
        with torch.no_grad():
            self.run.reconstructions = self._decode(st.argmax(self.model.encoder(shown)))
            prior = torch.zeros(64, LATENTS, CATEGORIES)
            self.run.samples = self._decode(st.categorical(prior, seed=0))
        self.run.points.append(point)
        return f"test -ELBO {point.test:.2f}"

    def _decode(self, code: Tensor) -> Pictures:
        return pictures(self.model.decoder(code).sigmoid().reshape(-1, *self.size))


def _tuned(name: str) -> tuple[float, st.estimators.Estimator]:
    """Return an estimator's learning rate and rule, or the defaults where none were found."""
    if name in TUNED:
        return TUNED[name]
    return DEFAULT_RATE, resolve("estimators", name, st.estimators.Estimator)


def run(settings: Settings, notify: Notify = silent) -> Result:
    """Train every estimator from every seed; Ctrl-C ends it with what there is by then.

    Raises:
        ArgumentError: if an estimator or the data is unknown, or epochs is below 1.
        DataError: if the data cannot be read.
    """
    check_epochs(settings.epochs)
    for name in settings.estimators:
        _tuned(name)
    data = load(settings.data, settings.folder)
    shape = SMALL if data.pixels < 28 * 28 else LARGE
    epochs = settings.epochs or shape.epochs
    with threads(shape.threads):
        result = Result(Header("vae"), replace(settings, epochs=epochs))
        result.originals = pictures(data.test[:AUDITED])
        with recording(result.header):
            for name, seed in itertools.product(settings.estimators, settings.seeds):
                trainer = _Trainer(data, shape, name, seed)
                result.parameters = sum(p.numel() for p in trainer.model.parameters())
                result.runs.append(trainer.run)
                train(trainer, epochs, notify)
    return result
