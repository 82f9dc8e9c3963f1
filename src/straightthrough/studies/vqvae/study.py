"""The vector-quantized autoencoder: rules, ways to learn a codebook, revival, and no codebook."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...core.errors import ArgumentError
from ...core.progress import Notify, silent
from ...nn.quantizers import VectorQuantizer
from ..data import Data, Images, load
from ..journal import Journal
from ..record import Header, Pictures, pictures
from ..training import Trainer, check_epochs, threads, train
from .model import LARGE, QUANTIZERS, SMALL, Autoencoder, Shape

DRAWN = 64
"""Codes, at most, of which there is a picture."""


@dataclass(frozen=True)
class Settings:
    """What the study is asked for.

    Attributes:
        data: the name of the data set.
        folder: where it lies, if it is not scikit-learn's.
        quantizers: names of `model.QUANTIZERS`; None for all.
        seeds: one run each, of every quantizer.
        epochs: None for a number that suits the data.
    """

    data: str = "digits"
    folder: str | None = None
    quantizers: Sequence[str] | None = None
    seeds: Sequence[int] = (0,)
    epochs: int | None = None


@dataclass
class Point:
    """One moment of a run.

    Attributes:
        train_error, test_error: mean squared errors of the images that come back.
        perplexity: the exponential of the entropy of how often a code is chosen.
        used: how many codes are, of the training images.
    """

    epoch: int
    train_error: float
    test_error: float
    perplexity: float
    used: int
    seconds: float


@dataclass
class Run:
    """One training of one autoencoder.

    Attributes:
        shares: how often each code is chosen, of all tokens of the training images, sorted.
        reconstructions: of the first test images, and of the first seed alone.
        codes: what the decoder makes of those that are chosen most, all tokens being it; likewise.
    """

    quantizer: str
    seed: int
    points: list[Point] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    reconstructions: Pictures | None = None
    codes: Pictures | None = None


@dataclass
class Result:
    """All runs, and what they share."""

    header: Header
    settings: Settings
    images: Images
    tokens: int
    codes: int
    originals: Pictures
    runs: list[Run] = field(default_factory=list)


class _Trainer(Trainer):
    """One run of one autoencoder."""

    def __init__(
        self, data: Data, shape: Shape, quantizer: str, seed: int, pictured: bool = True
    ) -> None:
        torch.manual_seed(seed)
        self.pictured = pictured
        self.shape, self.size = shape, data.train.shape[1:]
        self.train, self.test = data.train.flatten(1), data.test.flatten(1)
        self.model = Autoencoder(quantizer, shape, data.pixels)
        super().__init__(
            f"{quantizer}, seed {seed}",
            [Run(quantizer, seed)],
            torch.optim.Adam(self.model.parameters(), shape.rate, fused=True),
        )

    def epoch(self) -> list[float]:
        self.model.train()
        quantizer = self.model.quantizer
        for batch in torch.randperm(len(self.train)).split(self.shape.batch):
            self.optimizer.zero_grad()
            images = self.train[batch]
            back, found = self.model(images)
            ((back - images).square().mean() + found.loss).backward()
            self.optimizer.step()
            if isinstance(quantizer, VectorQuantizer) and quantizer.book.update == "manual":
                quantizer.update_codebook(self.optimizer)
        return []

    @torch.no_grad()
    def measure(self, last: bool) -> tuple[list[Point], str]:
        self.model.eval()
        back, found = self.model(self.train)
        tested = self.model(self.test)[0]
        count = torch.bincount(found.index.flatten(), minlength=self.shape.codes)
        share = count.double() / count.sum()
        point = Point(
            epoch=self.done,
            train_error=float((back - self.train).square().mean()),
            test_error=float((tested - self.test).square().mean()),
            perplexity=float(torch.special.entr(share).sum().exp()),
            used=int((count > 0).sum()),
            seconds=self.seconds,
        )
        run = self.runs[0]
        shares, most = share.sort(descending=True, stable=True)
        run.shares = shares.tolist()
        if self.pictured:
            run.reconstructions = self._pictures(tested[: self.shape.images])
            run.codes = self._pictures(self._decoded(most[:DRAWN]))
        return [point], f"test error {point.test_error:.4f}, {point.used} codes"

    def _decoded(self, number: Tensor) -> Tensor:
        codes: Tensor = self.model.quantizer.decode(number)  # type: ignore[operator]  # all have it
        return self.model.decode(codes.unsqueeze(1).expand(-1, self.shape.tokens, -1))

    def _pictures(self, images: Tensor) -> Pictures:
        return pictures(images.unflatten(-1, self.size))

    def state(self) -> dict[str, Any]:
        return {**super().state(), "model": copy.deepcopy(self.model.state_dict())}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.model.load_state_dict(copy.deepcopy(state["model"]))


def run(settings: Settings, notify: Notify = silent, journal: Journal | None = None) -> Result:
    """Train every quantizer from every seed.

    Ctrl-C ends it with what there is by then.

    Raises:
        ArgumentError: if the data or a quantizer is unknown, epochs is below 1, or the journal has
            nothing to resume.
        DataError: if the data cannot be read.
    """
    check_epochs(settings.epochs)
    chosen = settings.quantizers or [*QUANTIZERS]
    for name in chosen:
        if name not in QUANTIZERS:
            raise ArgumentError(f"quantizer {name!r} is unknown; known: {'; '.join(QUANTIZERS)}")
    data = load(settings.data, settings.folder)
    small = data.pixels < 28 * 28
    shape = SMALL if small else LARGE
    epochs = settings.epochs or shape.epochs
    journal = journal or Journal()
    with threads(1 if small else None):
        result = Result(
            Header("vqvae"),
            replace(settings, epochs=epochs, quantizers=chosen),
            data.facts,
            shape.tokens,
            shape.codes,
            pictures(data.test[: shape.images]),
        )
        with journal.keep(result):
            for seed, name in itertools.product(settings.seeds, chosen):
                trainer = _Trainer(data, shape, name, seed, seed == settings.seeds[0])
                train(trainer, result.runs, epochs, notify, journal)
    return result
