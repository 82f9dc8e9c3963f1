"""What the categorical VAE is trained with: two settings of our own, and those of two papers.

What a paper leaves open is taken from its authors' code. Both divide grey levels by 255, take
their cross-entropy as the reconstruction loss, the divergence to the uniform prior in closed form,
torch's initial weights, and report the mean over the last epoch of the loss as it is trained.

- `reinmax`: Liu, Dong, Liu, Yu, Gao, "Bridging discrete and backpropagation: straight-through and
  beyond", 2023; github.com/LiyuanLucasLiu/ReinMax, `mnist_vae/`. Adam without weight decay, a
  constant rate; the means of seeds 0 to 9. The -ELBO here are quoted second-hand.
- `hooper`: Hooper, Shekhovtsov, "Generalized and optimal straight-through estimators", 2026;
  github.com/James-Hooper123/Generalized-and-Optimal-Straight-Through-Estimators,
  `VAE/Reinmax/Train_fixed_schedule.py`. AdamW with torch's weight decay of 0.01; one gradient is
  stepped along twice; seed 0, the best of 30 rates and 30 temperatures. It has no straight-through
  estimator; the rate of ours is the middle one of those that `VAE/VAE/run.py` tries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

import straightthrough as st

from ...core.errors import ArgumentError
from ...core.registry import resolve
from ..data import check_name


def constant(epoch: int, epochs: int) -> float:
    """Return 1."""
    return 1.0


def warm_up_and_cosine(epoch: int, epochs: int, warm_up: int = 5) -> float:
    """Rise linearly from 1/1000 for `warm_up` epochs, then fall towards 0 along half a cosine."""
    if epoch < warm_up:
        return 1e-3 + (1 - 1e-3) * epoch / warm_up
    return (1 + math.cos(math.pi * (epoch - warm_up) / (epochs - warm_up))) / 2


def adam(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Return Adam with torch's settings."""
    return torch.optim.Adam(parameters, rate, fused=True)


def adamw(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Return AdamW with torch's settings, a weight decay of 0.01 among them."""
    return torch.optim.AdamW(parameters, rate, weight_decay=0.01, fused=True)


@dataclass(frozen=True)
class Tuned:
    """A rule, the learning rate found for it, and the -ELBO that a paper reached with them."""

    rate: float
    rule: st.estimators.CategoricalEstimator
    published: float | None = None


@dataclass(frozen=True)
class Preset:
    """All that a run is made of but its estimator and its seed.

    Attributes:
        data: the data sets it is for, the first by default.
        hidden: widths of the encoder's layers; the decoder has them the other way round.
        latents: how many one-hots make a code.
        categories: the length of each.
        activation: between layers.
        batch: images a step.
        optimizer: from parameters and a learning rate.
        repeats: how often one gradient is stepped along.
        schedule: from an epoch, 0 the first, and their number to the share of the learning rate.
        epochs: unless told otherwise.
        threads: None for torch's own; small layers lose time to a second one.
        estimators: what is trained unless told otherwise.
        rate: the learning rate of estimators that are not in `tuned`.
        tuned: by shorthand.
        tuning: where temperatures and learning rates are from, in a sentence.
        without_bias: what is trained once more without its bias, unless told otherwise.
        source: where published numbers are from.
    """

    data: tuple[str, ...]
    hidden: tuple[int, int]
    batch: int
    epochs: int
    estimators: tuple[str, ...]
    rate: float
    tuned: Mapping[str, Tuned]
    tuning: str
    without_bias: tuple[str, ...] = ()
    latents: int = 4
    categories: int = 8
    activation: Callable[[], nn.Module] = nn.ReLU
    optimizer: Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer] = adam
    repeats: int = 1
    schedule: Callable[[int, int], float] = constant
    threads: int | None = None
    source: str | None = None

    def rule(self, estimator: str, argument: str = "estimators") -> Tuned:
        """Return an estimator's rule and learning rate; the defaults where none were found.

        Raises:
            ArgumentError: if no estimator has that name, which was given as `argument`.
        """
        if estimator in self.tuned:
            return self.tuned[estimator]
        return Tuned(self.rate, resolve(argument, estimator, st.estimators.CategoricalEstimator))


BASIC = ("straight_through", "gumbel", "reinmax")

# Found by Liu et al. for 8 categories x 4 latents on MNIST.
LIU = {
    "straight_through": Tuned(1e-3, st.estimators.StraightThrough(tau=1.3), 135.53),
    "gumbel": Tuned(3e-4, st.estimators.GumbelST(tau=0.5), 126.85),
    "reinmax": Tuned(5e-4, st.estimators.ReinMax(tau=1.3), 124.66),
    "gumbel_rao": Tuned(5e-4, st.estimators.GumbelRao(tau=0.5, samples=100), 125.94),
    "gapped": Tuned(5e-4, st.estimators.GappedST(tau=1.0), 126.35),
}

PRESETS = {
    # Digits give 15 steps an epoch where MNIST gives 600, so they take larger steps.
    "digits": Preset(
        data=("digits",),
        hidden=(128, 64),
        batch=100,
        epochs=250,
        estimators=BASIC,
        rate=4 * 5e-4,
        tuned={name: Tuned(4 * LIU[name].rate, LIU[name].rule) for name in LIU},
        tuning=(
            "Temperatures (tau) are those that Liu et al. (2023) found on MNIST for a code of this "
            "size, and learning rates are theirs times four, as digits give 15 steps an epoch "
            "where MNIST gives 600; what they did not try has its default temperature. Nothing "
            "was tuned on these images."
        ),
        without_bias=BASIC,
        threads=1,
    ),
    "mnist": Preset(
        data=("mnist", "fashion-mnist"),
        hidden=(512, 256),
        batch=100,
        epochs=20,
        estimators=BASIC,
        rate=5e-4,
        tuned={name: Tuned(LIU[name].rate, LIU[name].rule) for name in LIU},
        tuning=(
            "Temperatures (tau) and learning rates are those that Liu et al. (2023) found on MNIST "
            "for a code of this size and 160 epochs; what they did not try has its default "
            "temperature."
        ),
    ),
    "reinmax": Preset(
        data=("mnist",),
        hidden=(512, 256),
        batch=100,
        epochs=160,
        estimators=tuple(LIU),
        rate=5e-4,
        tuned=LIU,
        tuning="Temperatures (tau) and learning rates are the published ones.",
        source="Liu et al. (2023), 160 epochs, mean of ten seeds",
    ),
    "hooper": Preset(
        data=("mnist",),
        hidden=(512, 256),
        latents=128,
        categories=4,
        activation=partial(nn.LeakyReLU, 0.2),
        batch=200,
        optimizer=adamw,
        repeats=2,
        schedule=warm_up_and_cosine,
        epochs=50,
        estimators=("straight_through", "reinmax", "mve"),
        rate=1e-3,
        tuned={
            "reinmax": Tuned(2.0433597178569417e-3, st.estimators.ReinMax(tau=1.18), 100.34),
            "mve": Tuned(1.2689610031679222e-3, st.estimators.MVE(tau=150.0), 101.11),
        },
        tuning=(
            "Temperatures (tau) and learning rates of ReinMax and MVE are the published ones, the "
            "best of 30 each; others have their default temperature and the rate 0.001."
        ),
        source="Hooper and Shekhovtsov (2026), 50 epochs, seed 0",
    ),
}


def choose(preset: str | None, data: str | None) -> tuple[Preset, str]:
    """Return a preset and the data to train on, either of which may be left open.

    Raises:
        ArgumentError: if either is unknown, or the preset is not for that data.
    """
    if data is not None:
        check_name(data)
    if preset is None:
        data = data or "digits"
        return next(each for each in PRESETS.values() if data in each.data), data
    if preset not in PRESETS:
        raise ArgumentError(f"preset {preset!r} is unknown; known: {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    if data is not None and data not in chosen.data:
        allowed = " or ".join(chosen.data)
        raise ArgumentError(f"preset {preset!r} is for {allowed}, got data {data!r}; leave it out")
    return chosen, data or chosen.data[0]
