"""The autoencoders, the same but for what quantizes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

import straightthrough as st

from ...nn.quantized import Quantized

DECAY, COMMITMENT, REVIVE = 0.99, 0.25, 0.1
BITS = 0.003
"""The weight of the losses of signs, which is small beside that of a mean of squares."""

LEARNS = {"ema": "moving averages", "loss": "its loss", "gradient": "the rule's gradient"}
RULES = {
    "ste": ("loss", "ema"),
    "rotation": ("loss", "ema"),
    "both": ("loss",),
    "diveq": ("gradient",),
}
"""By rule, what a codebook learns by under it."""


@dataclass(frozen=True)
class Shape:
    """What is fitted to the size of the images.

    Attributes:
        codes: how many a token has: the codebook's, and the product of `levels`.
        levels: of finite scalars.
        width: of a codebook's tokens.
        images: how many of them a checkpoint draws.
    """

    hidden: int
    tokens: int
    codes: int
    levels: tuple[int, ...]
    width: int
    batch: int
    epochs: int
    rate: float
    images: int = 12


SMALL = Shape(128, 4, 64, (4, 4, 4), 8, 100, 40, rate=3e-3)
LARGE = Shape(256, 8, 256, (4, 4, 4, 4), 8, 250, 5, rate=1e-3)


def _codebook(rule: str, learn: str, revive: float) -> Callable[[Shape], nn.Module]:
    def build(shape: Shape) -> nn.Module:
        update = "manual" if revive and learn != "ema" else "forward"
        return st.nn.VectorQuantizer(
            shape.codes,
            shape.width,
            rule,
            learn=learn,
            decay=DECAY,
            commitment=0.0 if learn == "gradient" else COMMITMENT,
            revive=revive,
            k_means=False,
            update=update,
        )

    return build


def quantizers() -> dict[str, Callable[[Shape], nn.Module]]:
    """Return by name what builds each quantizer."""
    found: dict[str, Callable[[Shape], nn.Module]] = {}
    for rule, learns in RULES.items():
        for learn, revive in itertools.product(learns, (0.0, REVIVE)):
            name = f"{rule}, {LEARNS[learn]}{', revival' if revive else ''}"
            found[name] = _codebook(rule, learn, revive)
    found["fsq"] = lambda shape: st.nn.FSQ(shape.levels)
    found["lfq"] = lambda shape: st.nn.LFQ(
        shape.codes.bit_length() - 1, entropy=BITS, commitment=BITS
    )
    return found


QUANTIZERS = quantizers()


class Autoencoder(nn.Module):
    """An encoder to a few tokens, a quantizer, and a decoder to grey values."""

    def __init__(self, name: str, shape: Shape, pixels: int) -> None:
        super().__init__()
        self.quantizer = QUANTIZERS[name](shape)
        widths = {st.nn.FSQ: len(shape.levels), st.nn.LFQ: shape.codes.bit_length() - 1}
        self.tokens, width = shape.tokens, widths.get(type(self.quantizer), shape.width)
        self.encoder = _layers(pixels, shape.hidden, shape.tokens * width)
        self.decoder = _layers(shape.tokens * width, shape.hidden, pixels)

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized]:
        """Return images `(N, pixels)` as they come back, and what the quantizer returned."""
        z = self.encoder(images).unflatten(-1, (self.tokens, -1))
        found: Quantized = self.quantizer(z)
        return self.decode(found.quantized), found

    def decode(self, codes: Tensor) -> Tensor:
        """Return the images of codes `(N, tokens, width)`."""
        images: Tensor = self.decoder(codes.flatten(-2))
        return images


def _layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
