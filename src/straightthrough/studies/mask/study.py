"""The masked network: a hard concrete gate on every weight, and a price on open gates."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import straightthrough as st

from ...core.progress import Notify, Progress, silent
from ..data import Data, Images, load
from ..journal import Journal
from ..record import Header, Pictures, pictures
from ..training import Trainer, check_epochs, threads, train

BATCH = 100
OPEN_AT_START = 0.9
TAU, GAMMA, ZETA = 2 / 3, -0.1, 1.1


@dataclass(frozen=True)
class Shape:
    """What is fitted to the size of the images; `price` is what one open gate costs."""

    hidden: tuple[int, int]
    epochs: int
    rate: float
    gate_rate: float
    price: float
    threads: int | None


SMALL = Shape(hidden=(128, 64), epochs=120, rate=2e-3, gate_rate=5e-2, price=1e-4, threads=1)
LARGE = Shape(hidden=(300, 100), epochs=20, rate=1e-3, gate_rate=1e-2, price=4e-6, threads=None)


@dataclass(frozen=True)
class Settings:
    """What the study is asked for.

    Attributes:
        data: the name of the data set.
        folder: where it lies, if it is not scikit-learn's.
        seeds: one run each, of the masked and of the dense network.
        epochs: None for a number that suits the data.
    """

    data: str = "digits"
    folder: str | None = None
    seeds: Sequence[int] = (0,)
    epochs: int | None = None


@dataclass
class Point:
    """One moment of a run: errors and the share of weights that are not 0, in percent."""

    epoch: int
    train_error: float
    test_error: float
    live: float
    seconds: float


@dataclass
class Run:
    """One training of one network; `inputs` shows how many weights of each pixel are live."""

    network: str
    seed: int
    weights: int
    points: list[Point] = field(default_factory=list)
    inputs: Pictures | None = None


@dataclass
class Cost:
    """The forward of one masked layer: median time, and the share that is the mask's."""

    name: str
    milliseconds: float
    share: float


@dataclass
class Result:
    """The cost of a mask, and all runs."""

    header: Header
    settings: Settings
    images: Images
    costs: list[Cost] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)


class MaskedLinear(nn.Linear):
    """A linear layer whose weights are multiplied by gates that are 0 or 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.gate = st.nn.HardConcreteGate(
            (outputs, inputs), probs=OPEN_AT_START, tau=TAU, gamma=GAMMA, zeta=ZETA, hard=True
        )

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer with the weights that are live."""
        return F.linear(input, self.weight * self.gate(), self.bias)

    def live(self) -> Tensor:
        """Return where the weights are live without noise, bool."""
        return self.gate.logits > 0


class DenseLinear(nn.Linear):
    """The same layer without a mask."""

    def live(self) -> Tensor:
        """Return True everywhere."""
        return torch.ones_like(self.weight, dtype=torch.bool)


NETWORKS: dict[str, type[MaskedLinear] | type[DenseLinear]] = {
    "masked": MaskedLinear,
    "dense": DenseLinear,
}


class _Trainer(Trainer):
    """One run of one network."""

    def __init__(self, data: Data, shape: Shape, network: str, seed: int) -> None:
        torch.manual_seed(seed)
        self.data, self.shape = data, shape
        sizes = (data.pixels, *shape.hidden, data.classes)
        self.layers = [NETWORKS[network](*pair) for pair in itertools.pairwise(sizes)]
        first, second, last = self.layers
        self.model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), last)
        self.gates = [m for m in self.model.modules() if isinstance(m, st.nn.HardConcreteGate)]
        self.weights = sum(layer.weight.numel() for layer in self.layers)
        groups: list[dict[str, Any]] = [
            {"params": [layer.weight, layer.bias]} for layer in self.layers
        ]
        groups += [{"params": [gate.logits], "lr": shape.gate_rate} for gate in self.gates]
        super().__init__(
            f"{network}, seed {seed}",
            [Run(network, seed, self.weights)],
            torch.optim.Adam(groups, shape.rate, fused=True),
        )

    def epoch(self) -> list[float]:
        self.model.train()
        for batch in torch.randperm(len(self.data.train)).split(BATCH):
            self.optimizer.zero_grad()
            scores = self.model(self.data.train[batch])
            loss = F.cross_entropy(scores, self.data.train_labels[batch])
            for gate in self.gates:
                loss = loss + self.shape.price * gate.l0()
            loss.backward()
            self.optimizer.step()
        return []

    @torch.no_grad()
    def measure(self, last: bool) -> tuple[list[Point], str]:
        self.model.eval()
        live = [layer.live() for layer in self.layers]
        point = Point(
            epoch=self.done,
            train_error=self._error(self.data.train, self.data.train_labels),
            test_error=self._error(self.data.test, self.data.test_labels),
            live=100 * sum(int(mask.sum()) for mask in live) / self.weights,
            seconds=self.seconds,
        )
        inputs = live[0].float().mean(0).reshape(1, *self.data.train.shape[1:])
        self.runs[0].inputs = pictures(inputs)
        return [point], f"test error {point.test_error:.1f} %, live {point.live:.1f} %"

    def _error(self, images: Tensor, labels: Tensor) -> float:
        wrong = self.model(images).argmax(-1) != labels
        return 100 * float(wrong.double().mean())


def run(settings: Settings, notify: Notify = silent, journal: Journal | None = None) -> Result:
    """Measure the mask's cost, then train masked and dense from every seed.

    Ctrl-C ends it with what there is by then.

    Raises:
        ArgumentError: if the data is unknown, epochs is below 1, or the journal has nothing to
            resume.
        DataError: if the data cannot be read.
    """
    check_epochs(settings.epochs)
    data = load(settings.data, settings.folder)
    shape = SMALL if data.pixels < 28 * 28 else LARGE
    epochs = settings.epochs or shape.epochs
    journal = journal or Journal()
    with threads(shape.threads):
        result = Result(Header("mask"), replace(settings, epochs=epochs), data.facts)
        with journal.keep(result):
            result.costs = result.costs or measure(notify)
            for seed, network in itertools.product(settings.seeds, NETWORKS):
                trainer = _Trainer(data, shape, network, seed)
                train(trainer, result.runs, epochs, notify, journal)
    return result


def measure(
    notify: Notify = silent, size: int = 1024, batch: int = 256, rounds: int = 21
) -> list[Cost]:
    """Time the forward of a layer under each mask, one of each a round, and take medians.

    The share of a mask is 1 - (time without a mask) / (time with it).
    """
    x, layer = torch.randn(batch, size), MaskedLinear(size, size)
    logits = layer.gate.logits

    def soft() -> Tensor:
        uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        noise = uniform.log() - (1 - uniform).log()
        gate = torch.sigmoid((logits + noise) / TAU) * (ZETA - GAMMA) + GAMMA
        return F.linear(x, layer.weight * gate.clamp(0, 1), layer.bias)

    def inference() -> Tensor:
        layer.eval()
        with torch.no_grad():
            output = layer(x)
        layer.train()
        return output

    work: dict[str, Callable[[], Tensor]] = {
        "no mask": lambda: F.linear(x, layer.weight, layer.bias),
        "soft, plain torch": soft,
        "hard, in training": lambda: layer(x),
        "hard, at inference": inference,
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, forward in work.items():
            start = time.perf_counter()
            forward()
            times[name].append(1000 * (time.perf_counter() - start))
        notify(Progress("cost of the mask", number, rounds, f"{size} x {size}, batch {batch}"))
    # The first round warms up.
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    bare = medians["no mask"]
    return [Cost(name, median, 100 * (1 - bare / median)) for name, median in medians.items()]
