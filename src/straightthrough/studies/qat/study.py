"""Quantized networks: bits and rules, what ships, and rules for the rounding of weights alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import straightthrough as st

from ...core.errors import ArgumentError
from ...core.progress import Notify, Progress, silent
from ..data import Data, Images, load
from ..journal import Journal
from ..record import Header
from ..training import Trainer, check_epochs, threads, train
from . import rounding
from .model import FLOAT, LARGE, PRECISIONS, RULES, SMALL, Shape, inner, names, network, quantized
from .shipping import Shipped, ship

BINS, REACH = 150, 3.0
"""Of histograms: weights further out than so many largest values of the grid are left out."""

FEW = 16
"""Values of a grid, at most, that a histogram shows."""

SOME = 500
"""Training images that scales start from, and test images that onnxruntime is given."""

EVALUATED = 5000
"""Training images whose loss is taken, at most."""

DESCENT, ADAM = "gradient descent", "Adam"
RATES = {DESCENT: 0.05, ADAM: 1e-3}
"""Of the networks that differ in the rounding alone."""


@dataclass(frozen=True)
class Settings:
    """What the study is asked for.

    Attributes:
        data: the name of the data set.
        folder: where it lies, if it is not scikit-learn's.
        precisions, rules: names of `model.PRECISIONS` and `model.RULES`; None for all.
        rounding: whether rules for the rounding alone are compared.
        seeds: one run each, of every network.
        epochs: None for a number that suits the data.
    """

    data: str = "digits"
    folder: str | None = None
    precisions: Sequence[str] | None = None
    rules: Sequence[str] | None = None
    rounding: bool = True
    seeds: Sequence[int] = (0,)
    epochs: int | None = None


@dataclass
class Point:
    """One moment of a run.

    Attributes:
        train_loss, test_loss: mean cross-entropies.
        accuracy: percent of the test images.
        moved: percent of the inner weights whose code is not that of the start; 0 for floats.
        same: percent of them that have the code which the first network that is trained beside
            this one gives them; NaN where there is none.
    """

    epoch: int
    train_loss: float
    test_loss: float
    accuracy: float
    moved: float
    same: float
    seconds: float


@dataclass
class Histogram:
    """How often the weights of the largest layer lie where, from -REACH to REACH.

    The unit is the scale that quantizes a weight times the largest value of the grid, or the
    largest size of the floats at the start.

    Attributes:
        before, after: counts, at the start and at the last checkpoint.
        values: those of the grid, if they are few.
    """

    before: list[int]
    after: list[int]
    values: list[float]


@dataclass
class Run:
    """One training of one network; `shipped` is of its end, of the first seed and rule alone."""

    network: str
    seed: int
    points: list[Point] = field(default_factory=list)
    weights: Histogram | None = None
    shipped: Shipped | None = None


@dataclass
class Result:
    """All runs, and the rates of those that differ in the rounding alone."""

    header: Header
    settings: Settings
    images: Images
    rates: dict[str, float]
    runs: list[Run] = field(default_factory=list)


class _Together(Trainer):
    """Networks that are trained side by side on the same batches, mostly one."""

    def __init__(
        self,
        data: Data,
        shape: Shape,
        nets: dict[str, nn.Sequential],
        seed: int,
        optimizer: torch.optim.Optimizer,
        epochs: int,
        label: str = "",
    ) -> None:
        torch.manual_seed(seed)
        self.data, self.shape, self.epochs = data, shape, epochs
        self.nets = [*nets.values()]
        prefix = f"{label}: " if label else ""
        runs = [Run(prefix + name, seed) for name in nets]
        super().__init__(f"{label or runs[0].network}, seed {seed}", runs, optimizer)
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.started = [_codes(net) for net in self.nets]

    def epoch(self) -> list[float]:
        for net in self.nets:
            net.train()
        share = (1 + math.cos(math.pi * self.done / self.epochs)) / 2
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = share * rate
        for batch in torch.randperm(len(self.data.train)).split(self.shape.batch):
            self.optimizer.zero_grad()
            images, labels = _input(self.data.train[batch]), self.data.train_labels[batch]
            for net in self.nets:  # which share no parameter
                F.cross_entropy(net(images), labels).backward()
            self.optimizer.step()
        return [math.nan] * len(self.runs)

    @torch.no_grad()
    def measure(self, last: bool) -> tuple[list[Point], str]:
        codes = [_codes(net) for net in self.nets]
        shown = self.data.train[:EVALUATED], self.data.train_labels[:EVALUATED]
        points = []
        for net, own, start in zip(self.nets, codes, self.started, strict=True):
            net.eval()
            point = Point(
                self.done,
                *_scored(net, *shown)[:1],
                *_scored(net, self.data.test, self.data.test_labels),
                moved=_differing(own, start),
                same=100 - _differing(own, codes[0]) if len(codes) > 1 else math.nan,
                seconds=self.seconds / len(self.nets),
            )
            points.append(point)
        accuracies = " / ".join(f"{point.accuracy:.1f}" for point in points)
        return points, f"test accuracy {accuracies} %"

    def state(self) -> dict[str, Any]:
        models = [copy.deepcopy(net.state_dict()) for net in self.nets]
        return {**super().state(), "models": models}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        for net, saved in zip(self.nets, state["models"], strict=True):
            net.load_state_dict(copy.deepcopy(saved))


class _Trainer(_Together):
    """One network, whose weights are looked at, and which ships."""

    def __init__(
        self,
        data: Data,
        shape: Shape,
        name: str,
        seed: int,
        start: nn.Sequential,
        epochs: int,
        *,
        ships: bool,
    ) -> None:
        net = quantized(copy.deepcopy(start), name).eval()
        with torch.no_grad():
            net(_input(data.train[:SOME]))  # starts the scales
        self.floats, self.ships = net if name == FLOAT else start, ships
        self.unit = _largest(start)
        self.before = _counts(net, self.unit)
        optimizer = torch.optim.Adam(st.nn.param_groups(net, lr=shape.tuning), fused=True)
        super().__init__(data, shape, {name: net}, seed, optimizer, epochs)

    @torch.no_grad()
    def measure(self, last: bool) -> tuple[list[Point], str]:
        found = super().measure(last)
        (net,), (run,) = self.nets, self.runs
        run.weights = Histogram(self.before, _counts(net, self.unit), _values(net))
        if self.ships and self.done == self.epochs:
            run.shipped = ship(net, self.floats, _input(self.data.test[:SOME]))
        return found


def _input(images: Tensor) -> Tensor:
    return images.unsqueeze(1)


def _scored(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the mean loss and the accuracy in percent."""
    scores = torch.cat([net(_input(block)) for block in images.split(1000)])
    right = (scores.argmax(-1) == labels).double().mean()
    return float(F.cross_entropy(scores, labels)), 100 * float(right)


def _codes(net: nn.Sequential) -> Tensor:
    """Return the codes of all inner weights, none of floats."""
    found = [q.codes(weight).flatten() for weight, q in inner(net) if q is not None]
    return torch.cat(found) if found else torch.empty(0)


def _differing(codes: Tensor, others: Tensor) -> float:
    """Return in how many percent of their places codes differ."""
    return 100 * int((codes != others).sum()) / max(len(codes), 1)


def _largest(net: nn.Sequential) -> float:
    *_, (weight, _) = inner(net)
    return float(weight.detach().abs().max())


def _counts(net: nn.Sequential, unit: float) -> list[int]:
    """Return the histogram of the last of the inner layers, the largest."""
    *_, (weight, quantizer) = inner(net)
    with torch.no_grad():
        ends = unit if quantizer is None else quantizer.scale_of(weight) * quantizer.grid.high
        counts = torch.histc(weight / ends, BINS, -REACH, REACH)
    return [int(count) for count in counts.tolist()]


def _values(net: nn.Sequential) -> list[float]:
    *_, (_, quantizer) = inner(net)
    if quantizer is None:
        return []
    least, most = quantizer.grid.code_range
    codes = torch.arange(least, most + 1)
    shown = quantizer.grid.decode(codes) / quantizer.grid.high
    return shown.tolist() if len(shown) <= FEW else []


def _floats(data: Data, shape: Shape, seed: int, epochs: int, notify: Notify) -> nn.Sequential:
    """Train the network of floats that all others of a seed start from."""
    torch.manual_seed(seed)
    net = network(shape, data.train.shape[1:], data.classes)
    optimizer = torch.optim.Adam(net.parameters(), shape.rate, fused=True)
    trainer = _Together(data, shape, {"floats to start from": net}, seed, optimizer, epochs)
    while trainer.done < epochs:
        notify(Progress(trainer.label, trainer.done, epochs, ""))
        trainer.advance()
    return net.eval()


def _side_by_side(
    data: Data, shape: Shape, kind: str, seed: int, start: nn.Sequential, epochs: int
) -> _Together:
    """Return what trains the networks that differ in the rounding alone."""
    rate = RATES[kind]
    nets: dict[str, nn.Sequential] = {}
    groups: list[dict[str, Any]] = []
    for name, variant in rounding.variants(descent=kind == DESCENT).items():
        nets[name] = net = rounding.prepared(copy.deepcopy(start), variant)
        own = [weight for weight, _ in inner(net)]
        groups.append({"params": own, "lr": rate * variant.rate})
        known = {id(weight) for weight in own}
        rest = [p for p in net.parameters() if p.requires_grad and id(p) not in known]
        groups.append({"params": rest, "lr": rate})
    optimizer = torch.optim.SGD(groups) if kind == DESCENT else torch.optim.Adam(groups, fused=True)
    return _Together(data, shape, nets, seed, optimizer, epochs, kind)


def run(settings: Settings, notify: Notify = silent, journal: Journal | None = None) -> Result:
    """Train every network from the floats of every seed, then those that round differently.

    Ctrl-C ends it with what there is by then.

    Raises:
        ArgumentError: if the data, a precision or a rule is unknown, epochs is below 1, or the
            journal has nothing to resume.
        DataError: if the data cannot be read.
    """
    check_epochs(settings.epochs)
    precisions = _chosen("precision", settings.precisions, tuple(PRECISIONS))
    rules = _chosen("rule", settings.rules, RULES)
    data = load(settings.data, settings.folder)
    shape = SMALL if data.pixels < 28 * 28 else LARGE
    epochs = settings.epochs or shape.epochs
    journal = journal or Journal()
    with threads(1):
        settings = replace(settings, precisions=precisions, rules=rules, epochs=epochs)
        result = Result(Header("qat"), settings, data.facts, RATES)
        with journal.keep(result):
            for seed in settings.seeds:
                _train_seed(result, data, shape, seed, notify, journal)
    return result


def _train_seed(
    result: Result, data: Data, shape: Shape, seed: int, notify: Notify, journal: Journal
) -> None:
    """Train what a seed has not yet trained to the end."""
    settings = result.settings
    assert settings.epochs is not None
    assert settings.precisions is not None
    assert settings.rules is not None
    epochs, first = settings.epochs, seed == settings.seeds[0]
    single = names(settings.precisions, settings.rules)
    kinds = [*RATES] if settings.rounding else []
    several = sum(len(rounding.variants(descent=kind == DESCENT)) for kind in kinds)
    ended = [run for run in result.runs if run.seed == seed and run.points[-1].epoch == epochs]
    if len(ended) == len(single) + several:
        return
    start = _floats(data, shape, seed, epochs, notify)
    for name in single:
        ships = first and name.endswith((FLOAT, *settings.rules[:1]))
        trainer = _Trainer(data, shape, name, seed, start, epochs, ships=ships)
        train(trainer, result.runs, epochs, notify, journal)
    for kind in kinds:
        both = _side_by_side(data, shape, kind, seed, start, epochs)
        train(both, result.runs, epochs, notify, journal)


def _chosen(kind: str, given: Sequence[str] | None, known: tuple[str, ...]) -> Sequence[str]:
    for name in given or ():
        if name not in known:
            raise ArgumentError(f"{kind} {name!r} is unknown; known: {', '.join(known)}")
    return known if given is None else given
