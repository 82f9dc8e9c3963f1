"""A quantizer as a module: a grid, where its scale comes from, and a rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from ..core.engine import apply
from ..core.errors import ArgumentError, check_floating, check_not_nested
from ..core.internals import transforms_active
from ..core.mesh import whole
from ..core.once import check_start, has_begun, put
from ..core.precision import compute_dtype
from ..estimators import GridEstimator
from ..grids import Grid
from ..grids.block import Blocks
from ..ops.pointwise.api import clamp
from ..ops.quantize.api import fake_quantize
from ..ops.quantize.operation import Hold
from ..scales import AbsMax, Learned, Observed, Scale
from ..surrogates import Identity
from .base import Number, RuleModule, detached, waiting
from .measured import (
    added,
    agreed,
    beside,
    check_scales,
    finite,
    given,
    less,
    measurable,
    move,
    noted,
    nowhere,
    ranks,
)
from .parts import PARTS, aside, kept_shape, other_meaning, told
from .schedules import Delay
from .transforms import Transform, transformed

SCALE = ("started", "origin", "parameter", "shift_origin", "shift")
"""What there may be of a scale that is kept, in the state dict."""


class Quantizer(RuleModule[GridEstimator | Identity]):
    """`st.fake_quantize` as a module: a grid, where its scale comes from, and a rule.

    A scale that is kept, `Learned` or `Observed`, is part of the state dict, with whether it has
    started: the first input starts it, and a loaded one goes on. `eval()` measures nothing that is
    kept, and starts what has not yet been. What a learned scale started from is a buffer, `origin`,
    and `parameter`, which begins at 0, is added to it: so a start is the same on every shard. A
    state dict in which the scale has another meaning, as of another form or grid, is refused; grids
    are in its metadata, which `torch.save` writes and safetensors does not. One without a
    scale, as that of a model of floats, loads all the same, and the scale starts anew; one that
    lacks what the quantizer is a part of too, as that of a head alone, leaves it.

    In a distributed process group every rank starts at the mean of what the ranks measure, each on
    its own input, if it holds anything finite. Of mean sizes (`start="lsq"`), where the inputs are
    as large, that is what all elements together would give; of a largest size, a percentile, a
    deviation or a least squared error it is not. What `Observed` sees later, every rank keeps.

    Args:
        grid: one of `st.grids`.
        scale: one of `st.scales`.
        rule: a `GridEstimator` or its shorthand, or `Identity`.
        shape: that of the input, where a learned scale is one a channel or a block; sizes along
            which a scale is shared don't count.
        transform: what the input goes through first: `"tanh"`, `tanh(x) / max |tanh(x)|`, as in
            DoReFa-Net; or `"twn"`, 0 below a threshold and one size above it in what shares a
            scale, or in all that a vector holds, as in ternary weight networks.
        delay: how many steps of `st.nn.step_schedules` the input first passes as it is.
        fields: numbers or schedules for fields of the rule.

    Attributes:
        enabled: set to False, the input passes as it is.
        grid, scaling, transform, delay: may be set too: a scale that is kept to one of which what
            is kept means the same, a delay also to an int.

    Raises:
        ArgumentError: for an unknown grid, scale, rule or field, or a shape that is missing or
            holds no sizes; in compiled code, where a rank's first input is empty.
        ShapeError: if an input has other channels or blocks than the shape said.

    Edge cases: a scale that is kept is measured on the finite elements alone, stays where there are
    none, and starts with the first input that has some, not all 0, in compiled code with the first
    that is not empty; an empty input passes. NaN stays NaN.

    Example:
        >>> quantize = st.nn.Quantizer(st.grids.Int(4), st.scales.Learned(start="max"), "lsq")
        >>> quantize(torch.tensor([-1.4, 0.31, 0.5])).detach()
        tensor([-1.4000,  0.4000,  0.4000])
        >>> quantize.codes(torch.tensor([-1.4, 0.31, 0.5]))
        tensor([-7,  2,  2], dtype=torch.int32)
    """

    started: Tensor
    parameter: nn.Parameter | None
    origin: Tensor
    shift: nn.Parameter | None
    shift_origin: Tensor
    delay: Delay | None
    oscillation: Any = None
    """What tracks the codes of the weight that it quantizes, if something does."""

    def __init__(
        self,
        grid: Grid,
        scale: Scale | None = None,
        rule: GridEstimator | Identity | str = "ste",
        *,
        shape: Sequence[int] | None = None,
        transform: Transform = "",
        delay: int = 0,
        **fields: Number,
    ) -> None:
        super().__init__("rule", rule, (GridEstimator, Identity), fields)
        self.grid, self.enabled = grid, True
        self.scaling = scaling = AbsMax() if scale is None else scale
        self.transform = transform
        self.delay = delay  # type: ignore[assignment]  # a Delay by now
        self.register_parameter("parameter", None)
        self.register_parameter("shift", None)
        if scaling.kept:
            # Not bool, of which torch's AveragedModel takes no means.
            self.register_buffer("started", torch.zeros((), dtype=torch.uint8))
            kept = kept_shape(scaling, shape) or [1]  # what is sharded has a dimension
            if isinstance(scaling, Learned):
                self.parameter = nn.Parameter(torch.zeros(kept))
                self.shift = nn.Parameter(torch.zeros(kept)) if scaling.shifts else None
            origin = torch.ones(kept, dtype=compute_dtype(torch.get_default_dtype()))
            self.register_buffer("origin", origin)
            shift_origin = torch.zeros_like(origin) if scaling.shifts else None
            self.register_buffer("shift_origin", shift_origin)
        self._has_started = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PARTS:
            value = PARTS[name](self.__dict__, value)
        super().__setattr__(name, value)

    def _take(self, given: GridEstimator | Identity | str) -> None:
        self._give(given, {})

    # Under torch.compile there is no super().rule.
    rule = RuleModule.rule.setter(_take)  # type: ignore[attr-defined]  # a property

    @property
    def active(self) -> bool:
        """Whether it quantizes: it is enabled, and the delay is over."""
        return self.enabled and (self.delay is None or self.delay.over)

    @property
    def scale(self) -> Tensor:
        """The scale that is kept, of the shape that broadcasts to the input's blocks.

        Raises:
            ArgumentError: if it is measured on each input; `scale_of` returns that.
        """
        self.scaling.check_kept("use scale_of(x)")
        if not isinstance(self.scaling, Learned):
            return self._shaped(self.origin)
        assert self.parameter is not None
        return self._shaped(self.scaling.scale(added(self.origin, self.parameter)))

    @property
    def offset(self) -> Tensor | None:
        """What is taken off before, of the shape of the scale, where there is one."""
        return self._shifted() if self.scaling.shifts == "offset" else None

    @property
    def zero_point(self) -> Tensor | None:
        """The code of the value 0 before it is rounded, of the shape of the scale, or None."""
        if self.scaling.shifts != "zero_point":
            return None
        return clamp(self._shifted(), self.grid.low, self.grid.high)

    def scale_of(self, x: Tensor) -> Tensor:
        """Return the scale that `x` is quantized by, without learning from it."""
        return self._scale(self._blocks(x), learn=False)

    def codes(self, x: Tensor) -> Tensor:
        """Return the whole numbers that `x` becomes, int32, of its shape."""
        return self.grid.codes(self.in_steps(x), self._zero()).reshape(x.shape)

    def in_steps(self, x: Tensor) -> Tensor:
        """Return the blocks of `x` in units of the scale, less the offset: what the grid rounds."""
        blocks = self._blocks(x)
        wide = compute_dtype(x.dtype)
        scale = self._scale(blocks, learn=False).detach().to(wide)
        moved = blocks.detach().to(wide)
        if self.offset is not None:
            moved = moved - self.offset.detach().to(wide)
        return moved / scale

    def decode(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Return the values of codes: what `forward` gives for their input, in float32.

        Raises:
            ArgumentError: for `MX` and `NVFP4`, whose blocks have scales that no code tells.
        """
        if isinstance(self.grid, Blocks):
            raise ArgumentError(
                f"codes of {self.grid} have no values without the scales of their blocks, which "
                f"the codes don't tell; use values(x)"
            )
        blocks = self.scaling.blocks(codes)
        values = self.grid.decode(blocks, self._zero()) * scale
        return (values if self.offset is None else values + self.offset).reshape(codes.shape)

    def values(self, x: Tensor) -> Tensor:
        """Return what `x` is quantized to, without learning from it."""
        return self._quantized(x, learn=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.active:
            return self._quantized(x, learn=self.training)
        if self.delay is None or not self.enabled:
            return x
        self.delay.check_export()
        if self.training:
            return waiting(x, self.parameter, self.shift)
        return self._where_over(x, self.delay) if is_compiling() else x

    def _where_over(self, x: Tensor, delay: Delay) -> Tensor:
        """Return what buffers say, as compiled code can't ask: those of averages of models move."""
        over = delay.position >= delay.steps
        if self.scaling.kept:
            over = over & (self.started > 0)
        return torch.where(over, self._quantized(x, learn=False, start=False), x)

    def _quantized(self, x: Tensor, learn: bool, start: bool = True) -> Tensor:
        blocks = self._blocks(x)
        scale = self._scale(blocks, learn, start)
        shift: dict[str, Any] = {}
        if self.scaling.shifts:
            shift[self.scaling.shifts] = beside(blocks, getattr(self, self.scaling.shifts))
        y = fake_quantize(blocks, scale, grid=self.grid, rule=self.rule, **shift)
        return y.reshape(x.shape)

    def start(self, x: Tensor) -> None:
        """Measure the kept scale on `x`, whether or not it has started.

        Raises:
            ArgumentError: if the scale is measured on each input, or `x` is empty.
        """
        self.scaling.check_kept("start one that is kept")
        self._start(self._blocks(x))

    @torch.no_grad()
    def start_at(self, scale: Tensor | float, shift: Tensor | float = 0.0) -> None:
        """Set the kept scale, as it was learned or calibrated elsewhere, started or not.

        A form of the scale still holds: `"clip"` has a floor, a power of two is rounded up to.

        Args:
            scale: above 0, a number or a tensor of the shape of `scale`; one a channel may be 1-d.
            shift: likewise the zero point, a code of the grid, or the offset, where there is one.

        Raises:
            ArgumentError: if the scale is measured on each input, or for other numbers.
            DtypeError, ShapeError: for other tensors.
        """
        self.scaling.check_kept("set one that is kept")
        name = self.scaling.shifts
        if not name and not (isinstance(shift, int | float) and shift == 0):
            raise ArgumentError(f"{self.scaling} has neither a zero point nor an offset to set")
        at = given("scale", scale, self.origin, positive=True)
        codes = self.grid.code_range if name == "zero_point" else None
        moved = given(name, shift, self.origin, positive=False, codes=codes) if name else None
        self._place_scale(at, moved)

    def _shaped(self, kept: Tensor) -> Tensor:
        return kept.reshape(()) if self.scaling.one_for_all else kept

    def _shifted(self) -> Tensor:
        at, moved = self.shift_origin, self.shift
        return self._shaped(at if moved is None else added(at, moved))

    def _zero(self) -> Tensor | int:
        return 0 if self.zero_point is None else torch.round(self.zero_point.detach())

    def _blocks(self, x: Tensor) -> Tensor:
        check_floating("x", x)
        check_not_nested("x", x)
        return self.scaling.blocks(transformed(x, self.transform, self.scaling))

    def _scale(self, blocks: Tensor, learn: bool, start: bool = True) -> Tensor:
        some = blocks.numel() > 0
        if not self.scaling.kept:
            if not some:
                return blocks.new_ones((), dtype=compute_dtype(blocks.dtype))
            return apply(Hold(), self.scaling.measure(blocks, self.grid))
        moves = self.scaling.momentum if learn and isinstance(self.scaling, Observed) else 0.0
        if start and not self._begun():
            if some or ranks() > 1:
                check_start()
                begun = self.started > 0
                self._start(blocks, anew=not is_compiling())
                if moves and is_compiling():  # what has begun by its buffers
                    self._observe(blocks, begun * moves)
        elif some and moves:
            self._observe(blocks, moves)
        if some and self.scaling.axis is not None:
            check_scales(self.scaling.shape(blocks), self.origin)
        # The next forward may move what is kept before the backward of this one.
        return beside(blocks, self.scale.clone() if moves else self.scale)

    def _begun(self) -> bool:
        """Whether the scale has started, be it by buffers that were copied from another model."""
        started = self.started
        if is_compiling() or type(started) is not Tensor or started.is_meta:
            return self._has_started
        if transforms_active():
            return has_begun(started)
        # `torch.func.functional_call` puts others in the place of the buffers, for a while.
        if started.is_cpu or not self._has_started:
            self.__dict__["_has_started"] = bool(started.item())  # an assignment takes longer
        return self._has_started

    @torch.no_grad()
    def _start(self, blocks: Tensor, anew: bool = True) -> None:
        found = measurable(blocks, self.scaling.shared(blocks.ndim), self.origin)
        if found is None:
            return
        known, some = found
        scale, shift = self._measured(known), None
        if self.scaling.shifts:
            shift = agreed(self.scaling.measure_shift(known, self.grid).reshape(scale.shape), some)
        self._place_scale(agreed(scale, some), shift, anew)
        if nowhere(known.abs() > 0):  # a learned scale would stay at its floor
            self.started.zero_()
            self._has_started = False

    def _place_scale(self, scale: Tensor, shift: Tensor | None, anew: bool = True) -> None:
        """Set what is kept; unless `anew`, where it has not started by its buffers."""
        if anew and self._begun():
            self._reset()
        origin = self.scaling.parameter(scale) if isinstance(self.scaling, Learned) else scale
        begun = None if anew else self.started > 0
        put(self.origin, less(origin, self.parameter), begun)
        if shift is not None:
            put(self.shift_origin, less(shift, self.shift), begun)
        self.started.fill_(self.scaling.mark)
        self._has_started = True

    @torch.no_grad()
    def _reset(self) -> None:
        for parameter in self.parameters(recurse=False):
            parameter.zero_()

    @torch.no_grad()
    def _observe(self, blocks: Tensor, momentum: Tensor | float) -> None:
        blocks = finite(detached(blocks))
        measured = self._measured(blocks)
        if noted(self.__dict__, measured):
            move(self.origin, measured, momentum)
            if self.scaling.shifts:
                move(self.shift_origin, self.scaling.measure_shift(blocks, self.grid), momentum)

    def _measured(self, blocks: Tensor) -> Tensor:
        measured = self.scaling.measure(blocks, self.grid)
        if measured.ndim:
            check_scales(measured.shape, self.origin)
        return whole(measured.reshape(self.origin.shape))

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: list[str], *rest: Any
    ) -> None:
        other = other_meaning(self, state.get(f"{prefix}started"), metadata)
        if other:
            rest[-1].append(f"{prefix}origin is of {other}")
            return
        around = prefix[: prefix.rfind(".", 0, -1) + 1]
        found = any(prefix + name in state for name in SCALE)
        if self.scaling.kept and not found and not any(key.startswith(around) for key in missing):
            self.started.zero_()
        else:
            super()._load_from_state_dict(state, prefix, metadata, strict, missing, *rest)
        if self.scaling.kept:
            self._has_started = not self.started.is_meta and bool(self.started)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.scaling.kept and hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]].update(told(self))

    def _kept(self) -> Iterable[str]:
        return self._buffers

    def _begin(self) -> None:
        super()._begin()
        self._reset()
        self._has_started = False

    def extra_repr(self) -> str:
        return f"{self.grid}, {self.scaling}, {super().extra_repr()}{aside(self)}"
