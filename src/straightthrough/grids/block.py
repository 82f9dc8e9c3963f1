"""Grids whose blocks have a scale of their own: MX and NVFP4."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import ArgumentError, ShapeError, check_count
from .floating import FORMATS, Float, power_of_two
from .grid import Grid, Inside, Rounding, Zero

MODES = ("floor", "ceil", "rceil", "even")


class Blocks(Grid):
    """A floating format whose blocks of neighbours, along the last dimension, share a scale.

    The value is `q = t element(v / t)`, t the scale of a block, which is no number of the grid's
    user, and gets no gradient. In the range is what its element reaches. A block that holds NaN or
    an infinity is NaN.
    """

    @property
    @abstractmethod
    def of(self) -> Float:
        """The format of an element."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many neighbours share a scale."""

    @property
    def code_range(self) -> tuple[int, int]:
        return self.of.code_range

    @abstractmethod
    def scale_codes(self, scales: Tensor) -> Tensor:
        """Return the bytes that stand for the scales of blocks."""

    @abstractmethod
    def decode_scales(self, codes: Tensor) -> Tensor:
        """Return the scales of blocks that bytes stand for, float32."""

    @abstractmethod
    def of_largest(self, largest: Tensor) -> Tensor:
        """Return the scale of a block whose largest size is `largest`, above 0."""

    def check(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[-1] % self.size:
            raise ShapeError(
                f"blocks of {self.size} do not divide the last dimension of x, of shape "
                f"{tuple(x.shape)}; pad it, or choose another block"
            )

    def scales(self, v: Tensor) -> Tensor:
        """Return the scale of every block, `(..., blocks)`."""
        largest = v.detach().abs().unflatten(-1, (-1, self.size)).amax(-1)
        found = self.of_largest(torch.where(largest > 0, largest, 1))
        return torch.where(largest.isfinite(), found, torch.nan)

    def elements(self, v: Tensor) -> Tensor:
        """Return `v` in units of the scales of its blocks: what elements are made of."""
        return v / self._spread(v)

    def rounded(self, v: Tensor, zero: Zero = 0, rounding: Rounding = torch.round) -> Tensor:
        t = self._spread(v)
        # In a second derivative 0 over the NaN of a block would be NaN.
        by = t.nan_to_num(1) if v.requires_grad else t
        return self.of.rounded(v / by, 0, rounding) * t

    def inside(self, v: Tensor, zero: Zero = 0, what: Inside = "code") -> Tensor:
        return self.of.inside(self.elements(v), zero, what)

    def width(self, v: Tensor) -> Tensor:
        t = self._spread(v)
        return self.of.width(v / t) * t

    def codes(self, v: Tensor, zero: Zero = 0) -> Tensor:
        """Return the codes of the elements; `scales` has those of the blocks."""
        return self.of.codes(self.elements(v))

    def decode(self, codes: Tensor, zero: Zero = 0) -> Tensor:
        """Return the values of the elements, before they are multiplied by `scales`."""
        return self.of.decode(codes)

    def in_order(self, codes: Tensor) -> Tensor:
        return self.of.in_order(codes)

    def of_order(self, numbers: Tensor) -> Tensor:
        return self.of.of_order(numbers)

    def _spread(self, v: Tensor) -> Tensor:
        return self.scales(v).repeat_interleave(self.size, -1)


@dataclass(frozen=True)
class MX(Blocks):
    """Microscaling (MX): blocks of a floating format with a power of two for a scale.

    With a the largest size of a block, E the exponent of the element's largest value P and M its
    bits of mantissa, the scale is, by mode: `"floor"` `2^(floor(log2 a) - E)`, the standard's own;
    `"ceil"` the same rounded up; `"rceil"` `2^ceil(log2(a / P))`; `"even"` that of `"floor"` with a
    rounded to M bits first. It is at least `2^-126`. Beyond what the scale lets an element
    reach, it saturates.

    Args:
        element: a name of `Float`.
        block: how many neighbours along the last dimension share a scale.
        mode: `"floor"`, `"ceil"`, `"rceil"` or `"even"`.

    Raises:
        ArgumentError: for another element, block or mode.

    Example:
        >>> st.grids.MX("e2m1", block=4).nearest(torch.tensor([14.0, 1.1, -2.0, 0.4])).tolist()
        [12.0, 1.0, -2.0, 0.0]

    References:
        "OCP microscaling formats (MX) specification", version 1.0, 2023, section 6.3.
    """

    element: str = "e2m1"
    block: int = 32
    mode: Literal["floor", "ceil", "rceil", "even"] = "floor"

    def __post_init__(self) -> None:
        if self.element not in FORMATS:
            known = ", ".join(FORMATS)
            raise ArgumentError(f"element must be one of {known}, got {self.element!r}")
        object.__setattr__(self, "block", check_count("block", self.block))
        if self.mode not in MODES:
            raise ArgumentError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")

    @property
    def of(self) -> Float:
        return Float(self.element)

    @property
    def size(self) -> int:
        return self.block

    @property
    def low(self) -> float:
        return self.of.low

    @property
    def high(self) -> float:
        return self.of.high

    def scale_codes(self, scales: Tensor) -> Tensor:
        """The exponent and 127, the standard's E8M0, and 255 for NaN.

        Raises:
            ArgumentError: for another scale than a power of two from 2^-127 to 2^127.
        """
        mantissa, exponent = torch.frexp(scales)
        codes = torch.where(scales.isnan(), 255, exponent + 126)
        other = (mantissa != 0.5) | (codes < 0) | (codes > 254)
        other &= ~scales.isnan()
        if not scales.is_meta and other.any():
            raise ArgumentError(
                f"the scale of an MX block must be a power of two from 2^-127 to 2^127, got "
                f"{scales[other][0].item()}; divide what is quantized by a scale of its own first"
            )
        return codes.to(torch.uint8)

    def decode_scales(self, codes: Tensor) -> Tensor:
        ones = torch.ones_like(codes, dtype=torch.float32)
        scales = torch.ldexp(ones, codes.to(torch.int32) - 127)
        return torch.where(codes == 255, torch.nan, scales)

    def of_largest(self, largest: Tensor) -> Tensor:
        mantissa, top = self.of.format.mantissa, self.of.high
        least = 2.0**-126
        # Below it a quotient may be 0.
        scale = (largest / top if self.mode == "rceil" else largest).clamp(min=least)
        power = power_of_two(scale)
        up = scale > power
        if self.mode == "even":
            up = scale / power >= 2 - 2.0 ** -(mantissa + 1)
        if self.mode != "rceil":
            power = power / 2.0 ** (math.frexp(top)[1] - 1)
        if self.mode != "floor":
            power = torch.where(up, 2 * power, power)
        return power.clamp(min=least)


@dataclass(frozen=True)
class NVFP4(Blocks):
    """NVIDIA's FP4: blocks of 16 of E2M1, whose scales are E4M3.

    The scale of a block is `e4m3(clamp(a / 6, 2^-6, 448))`, a its largest size in units of the
    scale of the tensor. With that scale `max |x| / 2688` no block is beyond E4M3.

    Example:
        >>> x = torch.tensor([6.0, 3.1, -2.0, 0.4] * 4)
        >>> st.fake_quantize(x, 6 / 2688, grid=st.grids.NVFP4(), rule="identity")[:4]
        tensor([ 6.0000,  3.0000, -2.0000,  0.5000])

    References:
        NVIDIA, "Pretraining large language models with NVFP4", 2025, section 2.
    """

    BLOCK: ClassVar[int] = 16

    @property
    def of(self) -> Float:
        return Float("e2m1")

    @property
    def size(self) -> int:
        return self.BLOCK

    @property
    def low(self) -> float:
        return -self.high

    @property
    def high(self) -> float:
        return self.of.high * Float("e4m3").high

    def scale_codes(self, scales: Tensor) -> Tensor:
        return Float("e4m3").codes(scales).to(torch.uint8)

    def decode_scales(self, codes: Tensor) -> Tensor:
        return Float("e4m3").decode(codes.to(torch.int32))

    def of_largest(self, largest: Tensor) -> Tensor:
        scales = Float("e4m3")
        return scales.nearest((largest / self.of.high).clamp(2.0**-6, scales.high))
