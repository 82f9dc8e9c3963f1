"""A small convolutional network, and the ways to quantize it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

import straightthrough as st

from ...grids import Grid
from ...nn.quantizer import Quantizer


@dataclass(frozen=True)
class Shape:
    """What is fitted to the size of the images.

    Attributes:
        hidden: the width of the layer behind the convolutions.
        epochs: of the floats, and then of every network.
        rate: Adam's, from a random start.
        tuning: Adam's, from the trained floats.
    """

    hidden: int
    batch: int
    epochs: int
    rate: float
    tuning: float


SMALL = Shape(64, 50, 10, rate=3e-3, tuning=1e-3)
LARGE = Shape(128, 100, 5, rate=2e-3, tuning=5e-4)

CHANNELS = 16, 32
INNER = ("3", "7")
"""The layers between the first and the last, which have 8 bits in every quantized network."""


def network(shape: Shape, size: Sequence[int], classes: int) -> nn.Sequential:
    """Return a network of floats for images `(N, 1, *size)`."""
    narrow, wide = CHANNELS
    height, width = size
    return nn.Sequential(
        nn.Conv2d(1, narrow, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(narrow, wide, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(wide * (height // 4) * (width // 4), shape.hidden),
        nn.ReLU(),
        nn.Linear(shape.hidden, classes),
    )


@dataclass(frozen=True)
class Precision:
    """What the inner layers compute with: a grid of their weights, and bits of their inputs."""

    weights: Grid
    inputs: int


EIGHT = Precision(st.grids.Int(8), 8)
PRECISIONS = {
    "W8A8": EIGHT,
    "W4A4": Precision(st.grids.Int(4), 4),
    "W3A3": Precision(st.grids.Int(3), 3),
    "W2A2": Precision(st.grids.Int(2), 2),
    "W1.58A8": Precision(st.grids.Ternary(), 8),
    "W1A8": Precision(st.grids.Binary(), 8),
}
"""By name: W and A for the bits of weights and of inputs."""

LEARNED = {
    "lsq": (st.estimators.LSQ(batch_dims=0), st.estimators.LSQ()),
    "ewgs": (st.estimators.EWGS(), st.estimators.EWGS()),
    "poly": (st.estimators.Poly(batch_dims=0), st.estimators.Poly()),
}
"""By name, the rules under which scales are learned: of weights, and of inputs."""

RULES = ("lsq", "ste", "ewgs", "poly")
"""Under `ste` scales are measured, and gradients pass."""

FLOAT = "float"
"""The network that is not quantized."""


def names(precisions: Sequence[str], rules: Sequence[str]) -> list[str]:
    """Return the names of the networks, that of floats first."""
    return [FLOAT, *(" ".join(pair) for pair in itertools.product(precisions, rules))]


def quantized(net: nn.Sequential, name: str) -> nn.Sequential:
    """Prepare a network as its name says, in place; that of floats stays as it is."""
    if name != FLOAT:
        precision, rule = name.split()
        inner, ends = (_config(p, rule) for p in (PRECISIONS[precision], EIGHT))
        st.nn.prepare(net, [*((layer, inner) for layer in INNER), ("*", ends)])
    return net


def _config(precision: Precision, rule: str) -> st.nn.Config:
    grid, inputs = precision.weights, st.grids.Int(precision.inputs, signed=False)
    if rule in LEARNED:
        of_weight, of_input = LEARNED[rule]
        return st.nn.Config(
            st.nn.Scheme(grid, st.scales.Learned(axis=0, start="mse"), of_weight),
            st.nn.Scheme(inputs, st.scales.Learned(start="mse"), of_input),
        )
    # Three and two values as in BitNet and XNOR-Net.
    whole = isinstance(grid, st.grids.Int)
    weight = (
        st.nn.Scheme(grid, st.scales.AbsMax(axis=0), "ste")
        if whole
        else st.nn.Scheme(grid, st.scales.AbsMean(axis=0), "identity")
    )
    return st.nn.Config(weight, st.nn.Scheme(inputs, st.scales.Observed(), "ste"))


def inner(net: nn.Sequential) -> Iterator[tuple[nn.Parameter, Quantizer | None]]:
    """Yield the weights of the inner layers, each with what quantizes it."""
    for name in INNER:
        layer = net.get_submodule(name)
        quantizer = getattr(layer, "weight_quantizer", None)
        yield layer.weight, quantizer  # type: ignore[misc]  # as they are
