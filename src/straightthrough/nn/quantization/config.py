"""What of a layer is quantized, and how: configurations, and those that have a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...core.errors import ArgumentError, check_limit
from ...core.registry import resolve
from ...estimators import LSQ, GridEstimator
from ...grids import MX, NVFP4, Grid, Int, Stretched, Ternary
from ...ops.quantize.arguments import check_grid
from ...scales import AbsMax, AbsMean, Fixed, Learned, Scale
from ...surrogates import Identity
from ..parts import PARTS
from ..quantizer import Quantizer
from ..transforms import Transform


@dataclass(frozen=True)
class Scheme:
    """What a `Quantizer` is made of, for inputs of any shape.

    Args:
        grid: one of `st.grids`.
        scale: one of `st.scales`.
        rule: a `GridEstimator` or its shorthand, or `Identity`.
        transform: as that of a `Quantizer`.

    Raises:
        ArgumentError: for an unknown grid, scale, rule or transform.

    Example:
        >>> quantize = st.nn.Scheme(st.grids.Int(4), st.scales.AbsMax()).quantizer()
        >>> quantize(torch.tensor([7.0, 2.6]))
        tensor([7., 3.])
    """

    grid: Grid
    scale: Scale = field(default_factory=AbsMax)
    rule: GridEstimator | Identity | str = "ste"
    transform: Transform = ""

    def __post_init__(self) -> None:
        check_grid(self.grid)
        PARTS["scaling"]({"grid": self.grid}, self.scale)
        PARTS["transform"]({}, self.transform)
        resolve("rule", self.rule, GridEstimator, Identity)

    def quantizer(self, shape: Sequence[int] | None = None, *, delay: int = 0) -> Quantizer:
        """Return a new quantizer; `shape` is that of its input, where a scale is a channel's."""
        return Quantizer(
            self.grid, self.scale, self.rule, shape=shape, transform=self.transform, delay=delay
        )

    def along(self, axis: int) -> Scheme:
        """Return the scheme whose channels, if its scale is one a channel, lie along `axis`."""
        if self.scale.axis is None:
            return self
        return replace(self, scale=replace(self.scale, axis=axis))


@dataclass(frozen=True)
class Config:
    """What of a layer is quantized: its weight, its input, its output.

    Args:
        weight: a `Scheme`, or None for none. An axis of 0 is that of the output's channels, also in
            transposed convolutions, where it is dimension 1.
        input: a `Scheme` for the input; an embedding, whose input is numbers of rows, has none.
        output: a `Scheme` for the output.
        delay: how many steps of `st.nn.step_schedules` the layer first computes with floats.

    Raises:
        ArgumentError: if one of them is no scheme, or none is given.

    Example:
        >>> weight = st.nn.Scheme(st.grids.Int(4), st.scales.Learned(axis=0), "lsq")
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 4))
        >>> st.nn.prepare(net, [(torch.nn.Linear, st.nn.Config(weight))])(torch.ones(8)).shape
        torch.Size([4])
    """

    weight: Scheme | None = None
    input: Scheme | None = None
    output: Scheme | None = None
    delay: int = 0

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("weight", "input", "output")}
        for name, scheme in given.items():
            if scheme is not None and not isinstance(scheme, Scheme):
                raise ArgumentError(f"{name} must be a Scheme or None, got {scheme!r}")
        if not any(given.values()):
            raise ArgumentError("a Config needs a weight, an input or an output")
        check_limit("delay", self.delay)


def config(given: Config | str | None) -> Config | None:
    """Return the configuration of that name, or what was given."""
    if given is None or isinstance(given, Config):
        return given
    if not isinstance(given, str) or given not in CONFIGS:
        what = repr(given) if isinstance(given, str | dict) else f"a {type(given).__name__}"
        raise ArgumentError(
            f"{what} is no configuration; pass a Config, or one of {', '.join(CONFIGS)}; a paper's "
            f"is made of its preset, as Config(st.nn.preset('lsq').weight.scheme())"
        )
    return CONFIGS[given]


def _weights(bits: int) -> Scheme:
    return Scheme(Int(bits), Learned(axis=0, start="mse"), LSQ(batch_dims=0))


_INPUTS = Scheme(Int(8), Learned(start="max"), LSQ())
_BLOCKS = Scheme(MX("e2m1"), Fixed(), Identity())
_NVFP4 = Scheme(NVFP4(), AbsMax(), Identity())

CONFIGS = {
    "w8a8": Config(_weights(8), _INPUTS),
    "w4": Config(_weights(4)),
    "w4a8": Config(_weights(4), _INPUTS),
    "w2": Config(Scheme(Stretched(2), Learned(axis=0, start="max"), LSQ("code", batch_dims=0))),
    "bitnet": Config(
        Scheme(Ternary(), AbsMean(), Identity()),
        Scheme(Int(8), AbsMax(token=True), Identity()),
    ),
    "mxfp4": Config(_BLOCKS, _BLOCKS),
    "nvfp4": Config(_NVFP4, _NVFP4),
}
"""By name: w and a for the bits of weights and of inputs, both with learned scales."""
