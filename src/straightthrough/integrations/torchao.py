"""Quantizers of this library where `torchao` takes its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.quantization import PerAxis, PerGroup
from torchao.quantization.qat import IntxFakeQuantizeConfig
from torchao.quantization.transform_module import register_quantize_module_handler

from ..core.errors import ArgumentError
from ..grids import Int
from ..nn import Config, Quantizer, prepare
from ..scales import Learned


@dataclass
class Prepare(AOBaseConfig):
    """A configuration of `st.nn.prepare` for `torchao`'s `quantize_` and its `FqnToConfig`.

    Args:
        config: a `Config`, or the name of one of `st.nn.CONFIGS`.

    Example:
        >>> from torchao.quantization import quantize_
        >>> from straightthrough.integrations.torchao import Prepare
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
        >>> quantize_(net, Prepare("w4a8"))
        >>> net[0].weight_quantizer.grid
        Int(bits=4, signed=True, narrow=False)
    """

    config: Config | str


@register_quantize_module_handler(Prepare)  # type: ignore[untyped-decorator]  # torchao's
def _prepared(module: nn.Module, prepared: Prepare) -> nn.Module:
    return prepare(module, [("", prepared.config)])


class WeightSlot(nn.Module):
    """A quantizer in the place of the `weight_fake_quantizer` of `torchao`'s fake-quantized layers.

    The layer trains with it, and `quantize_(net, QATConfig(base, step="convert"))` packs the weight
    with the scale that was learned.

    Args:
        quantizer: of signed integers, with a learned scale: one a row, `axis=0`, or one a block.

    Raises:
        ArgumentError: for another quantizer.

    Example:
        >>> from torchao.quantization.qat import FakeQuantizedLinear
        >>> from straightthrough.integrations.torchao import WeightSlot
        >>> layer = FakeQuantizedLinear(8, 4)
        >>> scheme = st.nn.Scheme(st.grids.Int(4), st.scales.Learned(axis=0), "lsq")
        >>> layer.weight_fake_quantizer = WeightSlot(scheme.quantizer(layer.weight.shape))
        >>> layer(torch.randn(2, 8)).shape
        torch.Size([2, 4])
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        grid, scaling = quantizer.grid, quantizer.scaling
        signed = isinstance(grid, Int) and grid.signed and grid.bits <= 8
        by_row = scaling.axis == 0 or scaling.block is not None
        if not signed or not isinstance(scaling, Learned) or scaling.shifts or not by_row:
            raise ArgumentError(
                f"torchao's slot takes signed integers with a learned scale a row or a block, got "
                f"{grid} with {scaling}"
            )
        assert isinstance(grid, Int)
        self.quantizer = quantizer
        shared = PerAxis(0) if scaling.block is None else PerGroup(scaling.block)
        self.config = IntxFakeQuantizeConfig(
            getattr(torch, f"int{grid.bits}"), shared, is_dynamic=False, range_learning=True
        )

    @property
    def enabled(self) -> bool:
        """Whether it quantizes; torchao's switches set it."""
        return self.quantizer.enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.quantizer.enabled = value

    @property
    def scale(self) -> Tensor:
        """One scale a row and block, as torchao takes it."""
        scale = self.quantizer.scale.detach()
        return scale.squeeze(-1) if scale.ndim == 3 else scale

    @property
    def zero_point(self) -> Tensor:
        """The code of the value 0: 0."""
        return torch.zeros_like(self.scale, dtype=torch.int32)

    def forward(self, weight: Tensor) -> Tensor:
        y: Tensor = self.quantizer(weight)
        return y
