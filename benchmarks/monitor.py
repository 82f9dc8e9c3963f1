"""What `st.audit.Monitor` costs: training steps with and without it, taking turns in one run.

    python -m benchmarks.monitor

Each model exists twice, once watched, and the two take steps in turn. A round has fifty of each, so
that one of them, or each of them, is observed; what a round says is the ratio of the two sums.
"""

from __future__ import annotations

import itertools
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

import straightthrough as st

BATCH, PIXELS, CLASSES = 100, 784, 10
STEPS = 50
SECONDS = {STEPS: 13.0, 1: 3.0}
"""To measure for, by how often a step is observed; rarely is harder to tell."""


class VAE(nn.Module):
    """The study's categorical VAE at the size of MNIST: 4 latents of 8 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _layers(PIXELS, 512, 256, 32)
        self.draw = st.nn.Categorical("reinmax")
        self.decoder = _layers(32, 256, 512, PIXELS)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.encoder(images).unflatten(-1, (4, 8))
        pixels = self.decoder(self.draw(logits).flatten(1))
        return F.binary_cross_entropy_with_logits(pixels, images)


class Binary(nn.Module):
    """A network whose hidden weights and activations are signs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(PIXELS, 512), nn.BatchNorm1d(512), st.nn.Sign()),
            *(nn.Linear(512, 512), nn.BatchNorm1d(512), st.nn.Sign()),
            nn.Linear(512, CLASSES),
        )
        for place in (0, 3):
            parametrize.register_parametrization(self.layers[place], "weight", st.nn.Sign())

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.layers(images), labels)


class Spiking(nn.Module):
    """Leaky neurons over 10 steps of time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(PIXELS, 256), nn.Linear(256, CLASSES)
        self.spike = st.nn.Heaviside(1.0, surrogate="atan")

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        potential, total = images.new_zeros(BATCH, 256), images.new_zeros(BATCH, CLASSES)
        for _ in range(10):
            potential = 0.9 * potential + self.first(images)
            spikes = self.spike(potential)
            potential = potential - spikes
            total = total + self.second(spikes)
        return F.cross_entropy(total, labels)


def _layers(*sizes: int) -> nn.Sequential:
    pairs = itertools.pairwise(sizes)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Training:
    """A model that is trained on synthetic images, a step a call."""

    def __init__(self, make: Callable[[], nn.Module], every: int | None) -> None:
        torch.manual_seed(0)
        self.model = make()
        self.images, self.labels = torch.rand(BATCH, PIXELS), torch.randint(CLASSES, (BATCH,))
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.monitor = None if every is None else st.audit.Monitor(self.model, every=every)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.images, self.labels).backward()
        self.optimizer.step()
        if self.monitor is not None:
            self.monitor.step()

    def seconds(self) -> float:
        started = time.perf_counter()
        self.step()
        return time.perf_counter() - started


def measure(make: Callable[[], nn.Module], every: int) -> tuple[float, list[float]]:
    """Return the milliseconds of a plain step, and the quartiles of what is added, in percent."""
    pair = Training(make, None), Training(make, every)
    plains, ratios = [], []
    deadline = time.perf_counter() + SECONDS[every]
    while time.perf_counter() < deadline:
        totals = [0.0, 0.0]
        for step in range(STEPS):
            for place in (0, 1) if step % 2 == 0 else (1, 0):
                totals[place] += pair[place].seconds()
        plains.append(totals[0] / STEPS)
        ratios.append(100 * (totals[1] / totals[0] - 1))
    # The first round warms up.
    return 1000 * statistics.median(plains[1:]), statistics.quantiles(ratios[1:], n=4)


def main() -> None:
    """Print a table in Markdown."""
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, {platform.platform()}\n")
    print(
        "| model | step, ms | every | the monitor adds, % (quartiles) |\n| --- | --- | --- | --- |"
    )
    for make, every in itertools.product((VAE, Binary, Spiking), SECONDS):
        step, (low, middle, high) = measure(make, every)
        print(
            f"| {make.__name__} | {step:.2f} | {every} | {middle:.1f} ({low:.1f} to {high:.1f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
