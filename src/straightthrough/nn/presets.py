"""How papers quantize weights and activations: a table, every row with its source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import ArgumentError
from ..core.rules import Rule
from ..estimators import EWGS, LSQ, PACT, STE, TQT, LSQPlus, Trust
from ..grids import MX, NVFP4, Binary, Grid, HalfInt, Int, Stretched, Ternary
from ..scales import RMS, AbsMax, AbsMean, Fixed, Learned, Scale
from ..surrogates import Identity
from .quantization.config import Scheme
from .quantizer import Quantizer
from .transforms import Transform

Bits = float


@dataclass(frozen=True)
class Recipe:
    """A quantizer by its number of bits.

    Attributes:
        grid, scale, rule: of the bits.
        bits: where none are given.
        transform: of the bits: what the input goes through first.
        others: whether there may be other bits than those.
    """

    grid: Callable[[Bits], Grid]
    scale: Callable[[Bits], Scale]
    rule: Callable[[Bits], Rule]
    bits: Bits
    transform: Callable[[Bits], Transform] = lambda bits: ""
    others: bool = True

    def scheme(self, bits: Bits | None = None) -> Scheme:
        """Return the scheme of so many bits, for a `Config`.

        Raises:
            ArgumentError: where the grid has no values of so many bits.
        """
        bits = self.bits if bits is None else bits
        if not self.others and bits != self.bits:
            raise ArgumentError(f"bits must be {self.bits}, as there are no others, got {bits!r}")
        parts = self.grid(bits), self.scale(bits), self.rule(bits), self.transform(bits)
        return Scheme(*parts)  # type: ignore[arg-type]  # they fit

    def quantizer(
        self, bits: Bits | None = None, *, shape: Sequence[int] | None = None
    ) -> Quantizer:
        """Return a quantizer; `shape` is that of its input, where scales are channels'."""
        return self.scheme(bits).quantizer(shape)


@dataclass(frozen=True)
class Preset:
    """How a paper quantizes.

    Attributes:
        source: the paper.
        weight, activation: recipes; None where it has none, or one that is no quantizer.
        note: what is left to the user.
    """

    source: str
    weight: Recipe | None = None
    activation: Recipe | None = None
    note: str = ""


def preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        ArgumentError: for an unknown name, listing those that are known.

    Example:
        >>> st.nn.preset("lsq").weight.quantizer(bits=3).grid
        Int(bits=3, signed=True, narrow=False)
    """
    if name not in PRESETS:
        raise ArgumentError(f"{name!r} is no preset; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def _always(value: Any) -> Callable[[Bits], Any]:
    return lambda bits: value


def _recipe(grid: Any, scale: Any, rule: Any, bits: Bits, transform: Any = "") -> Recipe:
    """Return a recipe out of functions of the bits, or of what does not depend on them."""
    others, given = callable(grid), (grid, scale, rule, transform)
    grid, scale, rule, transform = (part if callable(part) else _always(part) for part in given)
    return Recipe(grid, scale, rule, bits, transform, others)


def _signed(bits: Bits) -> Int:
    return Int(_whole(bits))


def _unsigned(bits: Bits) -> Int:
    return Int(_whole(bits), signed=False)


def _whole(bits: Bits) -> int:
    """Return whole bits as an int; grids refuse what comes back as it is."""
    return int(bits) if bits == int(bits) else bits  # type: ignore[return-value]  # for the message


def _normalized_ewgs(bits: Bits) -> EWGS:
    """A delta of 1e-3 for inputs in [0, 1], in steps."""
    return EWGS(1e-3 / (2**bits - 1))


QUEST = {1: 0.79788, 2: 1.49353, 3: 2.05107, 4: 2.51393}
QUEST |= {5: 2.91609, 6: 3.27660, 7: 3.60105, 8: 3.88494}
"""By the bits: the end of the grid that suits a Gaussian best, in root mean squares."""


def _quest(bits: Bits) -> RMS:
    if bits not in QUEST:
        raise ArgumentError(f"bits must be one of {', '.join(map(str, QUEST))}, got {bits!r}")
    return RMS(2 * QUEST[int(bits)] / (2**bits - 1), token=True)


def _dorefa_grid(bits: Bits) -> Grid:
    return Binary() if bits == 1 else HalfInt(_whole(bits))


def _dorefa_scale(bits: Bits) -> Scale:
    return AbsMean() if bits == 1 else Fixed(2 / (2**bits - 1))


_EXACT = Learned(form="clip", start="lsq")
_TQT = {"form": "log2", "power_of_two": True}
_SEQ = Learned(form="clip", start="max", axis=0)
_BLOCKS = _recipe(MX("e2m1"), Fixed(), Identity(), 4)
_NVFP4 = _recipe(NVFP4(), AbsMax(), Identity(), 4)

PRESETS = {
    "lsq": Preset(
        "Esser et al., Learned step size quantization, 2020, section 2",
        _recipe(_signed, _EXACT, LSQ(batch_dims=0), 4),
        _recipe(_unsigned, _EXACT, LSQ(), 4),
    ),
    "lsq+": Preset(
        "Bhalgat et al., LSQ+, 2020, sections 3.1 and 3.3",
        _recipe(_signed, Learned(form="clip", start="3sigma"), LSQ(batch_dims=0), 4),
        _recipe(_unsigned, Learned(form="clip", offset=True), LSQPlus(), 4),
        "the offset starts from the least value of the first input",
    ),
    "pact": Preset(
        "Choi et al., PACT, 2018, section 3",
        activation=_recipe(_unsigned, Learned(form="clip", start=10.0), PACT(), 4),
        note="the paper adds a penalty on the square of the level; its weights are DoReFa's",
    ),
    "dorefa": Preset(
        "Zhou et al., DoReFa-Net, 2016, section 2.3",
        _recipe(
            _dorefa_grid, _dorefa_scale, Identity(), 4, lambda bits: "" if bits == 1 else "tanh"
        ),
        _recipe(_unsigned, lambda bits: Fixed(1 / (2**bits - 1)), STE("value"), 4),
    ),
    "tqt": Preset(
        "Jain et al., Trained quantization thresholds, 2019, section 3",
        _recipe(_signed, Learned(start="3sigma", **_TQT), TQT(), 8),  # type: ignore[arg-type]  # as named
        _recipe(_signed, Learned(start="max", **_TQT), TQT(), 8),  # type: ignore[arg-type]  # as named
    ),
    "ewgs": Preset(
        "Lee, Kim, Ham, Network quantization with element-wise gradient scaling, 2021",
        _recipe(_signed, Learned(start="3sigma"), _normalized_ewgs, 4),
        _recipe(_unsigned, Learned(start="3sigma"), _normalized_ewgs, 4),
        "the paper also updates delta, by the trace of the Hessian",
    ),
    "bitnet": Preset(
        "Ma et al., The era of 1-bit LLMs, 2024, and its published code",
        _recipe(Ternary(), AbsMean(), Identity(), 1.58),
        _recipe(_signed, AbsMax(token=True), Identity(), 8),
        "activations are normalized before, by their root mean square",
    ),
    "twn": Preset(
        "Li et al., Ternary weight networks, 2016, section 2",
        _recipe(Ternary(), AbsMax(axis=0), Identity(), 1.58, "twn"),
        note="the threshold is 0.7 of the mean size, as in the text; the authors' code has 0.75",
    ),
    "seq": Preset(
        "Liu et al., ParetoQ, 2025, section 3",
        _recipe(Stretched, _SEQ, LSQ("code", 0), 2),
        note="of 1.58 and 2 bits; N is here the elements of a row, and there those of all rows",
    ),
    "quest": Preset(
        "Panferov et al., QuEST, 2025, section 3",
        _recipe(lambda bits: HalfInt(_whole(bits)), _quest, Trust(), 4),
        _recipe(lambda bits: HalfInt(_whole(bits)), _quest, Trust(), 4),
        "the paper rotates blocks of 128 by a Hadamard matrix before",
    ),
    "mxfp4": Preset("OCP microscaling formats, version 1.0, 2023, section 6.3", _BLOCKS, _BLOCKS),
    "nvfp4": Preset("NVIDIA, Pretraining large language models with NVFP4, 2025", _NVFP4, _NVFP4),
}
"""By name."""
