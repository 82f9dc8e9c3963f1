"""A quantizer as a module: a grid, where its scale comes from, and a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core.errors import ArgumentError, check_floating, check_not_nested
from ..core.precision import compute_dtype
from ..estimators import GridEstimator
from ..grids import Grid
from ..ops.quantize.api import fake_quantize
from ..ops.quantize.arguments import check_grid
from ..scales import AbsMax, Learned, Observed, Scale
from ..surrogates import Identity
from .base import Number, RuleModule


class Quantizer(RuleModule[GridEstimator | Identity]):
    """`st.fake_quantize` as a module: a grid, where its scale comes from, and a rule.

    A scale that is kept, `Learned` or `Observed`, is part of the state dict, with whether it has
    started: the first input in training starts it (of a distributed process group, the mean over
    all ranks), and a loaded one goes on. `eval()` measures nothing that is kept, and starts what
    has not yet been.

    Args:
        grid: one of `st.grids`.
        scale: one of `st.scales`.
        rule: a `GridEstimator` or its shorthand, or `Identity`.
        shape: that of the input, where a learned scale is one a channel or a block; sizes along
            which a scale is shared don't count.
        fields: numbers or schedules for fields of the rule.

    Attributes:
        enabled: set to False, the input passes as it is.

    Raises:
        ArgumentError: for an unknown grid, scale, rule or field, or a shape that is missing.

    Example:
        >>> quantize = st.nn.Quantizer(st.grids.Int(4), st.scales.Learned(start="max"), "lsq")
        >>> quantize(torch.tensor([-1.4, 0.31, 0.5])).detach()
        tensor([-1.4000,  0.4000,  0.4000])
        >>> quantize.codes(torch.tensor([-1.4, 0.31, 0.5]))
        tensor([-7,  2,  2], dtype=torch.int32)
    """

    started: Tensor
    parameter: nn.Parameter | None
    offset: nn.Parameter | None
    observed: Tensor | None

    def __init__(
        self,
        grid: Grid,
        scale: Scale | None = None,
        rule: GridEstimator | Identity | str = "ste",
        *,
        shape: Sequence[int] | None = None,
        **fields: Number,
    ) -> None:
        super().__init__("rule", rule, (GridEstimator, Identity), fields)
        check_grid(grid)
        scaling = AbsMax() if scale is None else scale
        if not isinstance(scaling, Scale):
            raise ArgumentError(f"scale must be one of st.scales, such as AbsMax(), got {scale!r}")
        self.grid, self.scaling, self.enabled = grid, scaling, True
        self.register_parameter("parameter", None)
        self.register_parameter("offset", None)
        self.register_buffer("observed", None)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool) if scaling.kept else None)
        if isinstance(scaling, Learned):
            self.parameter = nn.Parameter(torch.ones(self._kept_shape(shape)))
            if scaling.offset:
                self.offset = nn.Parameter(torch.zeros_like(self.parameter))
        elif scaling.kept:
            self.observed = torch.ones(self._kept_shape(shape))
        self._has_started = False

    def _kept_shape(self, shape: Sequence[int] | None) -> list[int]:
        one_for_all = self.scaling.axis is None and self.scaling.block is None
        if one_for_all:
            return []
        if shape is None:
            raise ArgumentError(
                f"shape= is missing: {self.scaling} has a scale a channel or a block, and their "
                f"number is needed; pass the shape of the input"
            )
        return self.scaling.shape(self.scaling.blocks(torch.empty(*shape, device="meta")))

    def _take(self, given: GridEstimator | Identity | str) -> None:
        self._give(given, {})

    # Under torch.compile there is no super().rule.
    rule = RuleModule.rule.setter(_take)  # type: ignore[attr-defined]  # a property

    @property
    def scale(self) -> Tensor:
        """The scale that is kept, of the shape that broadcasts to the input's blocks.

        Raises:
            ArgumentError: if it is measured on each input; `scale_of` returns that.
        """
        if isinstance(self.scaling, Learned):
            assert self.parameter is not None
            return self.scaling.scale(self.parameter)
        if self.observed is None:
            raise ArgumentError(f"{self.scaling} is measured on each input; use scale_of(x)")
        return self.observed

    def scale_of(self, x: Tensor) -> Tensor:
        """Return the scale that `x` is quantized by, without learning from it."""
        return self._scale(self._blocks(x), learn=False)

    def codes(self, x: Tensor) -> Tensor:
        """Return the whole numbers that `x` becomes, int32, of its shape."""
        blocks = self._blocks(x)
        wide = compute_dtype(x.dtype)
        scale = self._scale(blocks, learn=False).detach().to(wide)
        moved = blocks.detach().to(wide)
        if self.offset is not None:
            moved = moved - self.offset.detach().to(wide)
        return self.grid.codes(moved / scale).reshape(x.shape)

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Return the values of codes: what `forward` gives for their input, in float32."""
        blocks = self.scaling.blocks(codes)
        values = self.grid.decode(blocks) * scale
        return (values if self.offset is None else values + self.offset).reshape(codes.shape)

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            return x
        blocks = self._blocks(x)
        scale = self._scale(blocks, learn=self.training)
        offset = None if self.offset is None else _beside(blocks, self.offset)
        y = fake_quantize(blocks, scale, grid=self.grid, rule=self.rule, offset=offset)
        return y.reshape(x.shape)

    def start(self, x: Tensor) -> None:
        """Measure the kept scale on `x`, whether or not it has started."""
        self._start(self._blocks(x))

    def _blocks(self, x: Tensor) -> Tensor:
        check_floating("x", x)
        check_not_nested("x", x)
        return self.scaling.blocks(x)

    def _scale(self, blocks: Tensor, learn: bool) -> Tensor:
        if not self.scaling.kept:
            return self.scaling.measure(blocks, self.grid)
        if not self._has_started:
            self._start(blocks)
        elif learn and isinstance(self.scaling, Observed):
            self._observe(blocks)
        return _beside(blocks, self.scale)

    def _start(self, blocks: Tensor) -> None:
        with torch.no_grad():
            measured = _agreed(self.scaling.measure(blocks, self.grid))
            if isinstance(self.scaling, Learned):
                assert self.parameter is not None
                self.parameter.copy_(self.scaling.parameter(measured))
                if self.offset is not None:
                    self.offset.copy_(_agreed(self.scaling.measure_offset(blocks, self.grid)))
            else:
                assert self.observed is not None
                self.observed.copy_(measured)
            self.started.fill_(True)
        self._has_started = True

    def _observe(self, blocks: Tensor) -> None:
        assert isinstance(self.scaling, Observed)
        assert self.observed is not None
        measured = self.scaling.measure(blocks, self.grid).to(self.observed.dtype)
        self.observed.lerp_(measured, self.scaling.momentum)

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)
        if self.scaling.kept:
            self._has_started = bool(self.started)

    def extra_repr(self) -> str:
        return f"{self.grid}, {self.scaling}, {super().extra_repr()}"


def _beside(x: Tensor, scale: Tensor) -> Tensor:
    """Return a scale or an offset in a dtype that it may have beside `x`."""
    wide = compute_dtype(x.dtype)
    return scale if scale.dtype in (x.dtype, wide) else scale.to(wide)


def _agreed(scale: Tensor) -> Tensor:
    """Return the mean over the ranks of a process group, if there is one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(scale)
        scale = scale / dist.get_world_size()
    return scale
