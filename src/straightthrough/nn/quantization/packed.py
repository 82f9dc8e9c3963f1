"""Weights as the codes that stand for them, a few bits each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from ...core.bits import pack_numbers, unpack_numbers
from ...core.errors import ShapeError
from ...grids.block import Blocks
from ..kept import KeptDtypes
from ..quantizer import Quantizer

FORMATS = ("contiguous_format", "channels_last", "channels_last_3d")
"""Names, as `torch.save` can't pickle what they name."""


class Packed(KeptDtypes):
    """What a quantizer made of a weight, computed from bytes: of the same values.

    A code takes as many bits as the grid has. Scales, zero points, offsets and, where the grid's
    blocks have them, the bytes of their scales are buffers. A state dict's metadata, which
    `torch.save` writes and safetensors does not, name the grid, and codes of another are refused.

    Args:
        quantizer: in `eval()`.
        weight: what it quantizes.

    Attributes:
        width: how many bits a code takes.
    """

    scale: Tensor
    zero_point: Tensor | None
    offset: Tensor | None
    block_scales: Tensor | None

    def __init__(self, quantizer: Quantizer, weight: Tensor) -> None:
        super().__init__()
        self.grid, self.scaling = quantizer.grid, quantizer.scaling
        self.shape, self.dtype = weight.shape, weight.dtype
        # As the quantizer has it, since another order of channels rounds a convolution otherwise.
        made = quantizer(weight)
        found = (f for f in FORMATS if made.is_contiguous(memory_format=getattr(torch, f)))
        self.format = next(found, FORMATS[0])
        least, most = self.grid.code_range
        self.width = (most - least).bit_length()
        self.register_buffer("scale", quantizer.scale_of(weight).detach().clone())
        for name in ("zero_point", "offset"):
            shift = getattr(quantizer, name)
            self.register_buffer(name, None if shift is None else shift.detach().clone())
        if self.zero_point is not None:
            self.zero_point.round_()
        self.register_buffer("block_scales", self._block_scales(quantizer, weight))

    def _block_scales(self, quantizer: Quantizer, weight: Tensor) -> Tensor | None:
        if not isinstance(self.grid, Blocks):
            return None
        return self.grid.scale_codes(self.grid.scales(quantizer.in_steps(weight)))

    def pack(self, codes: Tensor) -> Tensor:
        """Return the bytes of codes."""
        return pack_numbers(codes - self.grid.code_range[0], self.width)

    def codes(self, packed: Tensor) -> Tensor:
        """Return the codes, int32, of the weight's shape."""
        due = -(-self.shape.numel() * self.width // 8)
        if packed.shape != (due,):
            raise ShapeError(
                f"the bytes of a packed weight of shape {tuple(self.shape)} must be of shape "
                f"({due},), got {tuple(packed.shape)}; change a weight, as to fold a batch norm "
                f"into it, before the model is prepared"
            )
        return unpack_numbers(packed, self.width, self.shape) + self.grid.code_range[0]

    def forward(self, packed: Tensor) -> Tensor:
        """Return the weight."""
        zero = 0 if self.zero_point is None else self.zero_point
        codes = self.scaling.blocks(self.codes(packed))
        values = self.grid.decode(codes, zero).to(self.scale.dtype)
        if isinstance(self.grid, Blocks):
            assert self.block_scales is not None
            spread = self.grid.decode_scales(self.block_scales).repeat_interleave(
                self.grid.size, -1
            )
            values = values * spread
        values = values * self.scale
        if self.offset is not None:
            values = values + self.offset
        laid = getattr(torch, self.format)
        return values.reshape(self.shape).to(self.dtype).contiguous(memory_format=laid)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]]["grid"] = str(self.grid)

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        saved = metadata.get("grid", str(self.grid))
        if saved != str(self.grid):
            rest[-1].append(
                f"{prefix[:-1]} has codes of {self.grid}, and the state dict those of {saved}; "
                f"prepare the model with that grid"
            )
            return
        super()._load_from_state_dict(state, prefix, metadata, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self

    def extra_repr(self) -> str:
        return f"{self.grid}, {tuple(self.shape)}, {self.width} bits a code"
