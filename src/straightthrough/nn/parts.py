"""What a quantizer is made of, checked as it is made and wherever a part is assigned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..core.errors import ArgumentError, as_int, check_flag, check_limit
from ..grids import Int
from ..ops.quantize.arguments import check_grid
from ..scales import Scale
from .schedules import Delay
from .transforms import TRANSFORMS


def kept_shape(scaling: Scale, shape: Sequence[int] | None) -> list[int]:
    """Return the shape of what is kept of a scale, of an input of a shape; none for one of all."""
    if scaling.one_for_all:
        return []
    if shape is None:
        raise ArgumentError(
            f"shape= is missing: {scaling} has a scale a channel or a block, and their number is "
            f"needed; pass the shape of the input"
        )
    whole = [as_int(size) for size in shape] if isinstance(shape, Sequence) else [None]
    sizes = [size for size in whole if size is not None and size >= 0]
    if len(sizes) < len(whole):
        raise ArgumentError(f"shape must be the sizes of the input, ints, got {shape!r}")
    return scaling.shape(scaling.blocks(torch.empty(sizes, device="meta")))


def other_meaning(quantizer: Any, started: Tensor | None, metadata: Any) -> str:
    """Return of what else the scale of a state dict is, and what to do; nothing if of the same."""
    scaling = quantizer.scaling
    if not scaling.kept or started is None or started.is_meta or not started:
        return ""
    if int(started) != scaling.mark:
        return (
            f"another meaning than in {scaling}; make the quantizer with the form, power_of_two, "
            f"offset and zero_point of the state dict's"
        )
    own = told(quantizer)
    saved = {name: metadata.get(name, own[name]) for name in own}
    if saved != own:
        return (
            f"{saved['scale']} and {saved['grid']}, and the quantizer has {own['scale']} and "
            f"{own['grid']}; give the quantizer those, or take its tensors out of the state dict, "
            f"for its scale to start anew"
        )
    return ""


def told(quantizer: Any) -> dict[str, str]:
    """Return what a state dict's metadata tell of a scale, which its tensors don't."""
    return {"scale": type(quantizer.scaling).__name__, "grid": str(quantizer.grid)}


def aside(quantizer: Any) -> str:
    """Return what the repr of a quantizer adds to its grid, scale and rule, where it has some."""
    bent = f", transform={quantizer.transform!r}" if quantizer.transform else ""
    return bent if quantizer.enabled else f"{bent}, enabled=False"


def _grid(parts: dict[str, Any], given: Any) -> Any:
    check_grid(given)
    _check_zero_point({**parts, "grid": given})
    return given


def _scaling(parts: dict[str, Any], given: Any) -> Any:
    if not isinstance(given, Scale):
        raise ArgumentError(f"scale must be one of st.scales, such as AbsMax(), got {given!r}")
    present = parts.get("scaling", given)
    if _kept(given) != _kept(present):
        raise ArgumentError(
            f"the scale is {present}, and what is kept of it has no meaning for {given}; make "
            f"another quantizer"
        )
    _check_zero_point({**parts, "scaling": given})
    return given


def _transform(parts: dict[str, Any], given: Any) -> Any:
    if given and (not isinstance(given, str) or given not in TRANSFORMS):
        known = ", ".join(TRANSFORMS)
        raise ArgumentError(f"transform must be one of {known}, or '', got {given!r}")
    return given


def _enabled(parts: dict[str, Any], given: Any) -> bool:
    return check_flag("enabled", given)


def _delay(parts: dict[str, Any], given: Any) -> Delay | None:
    """Return the delay of so many steps, None of 0."""
    if given is None or isinstance(given, Delay):
        return given
    delay = Delay(check_limit("delay", given))
    return delay if delay.steps else None


def _measured(parts: dict[str, Any], given: Any) -> NoReturn:
    raise ArgumentError(
        f"the scale, the offset and the zero point can't be assigned, got {given!r}: they are "
        f"computed of what is kept; start_at(scale, shift) sets that, and scaling= says where a "
        f"scale comes from"
    )


PARTS: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "grid": _grid,
    "scaling": _scaling,
    "transform": _transform,
    "enabled": _enabled,
    "delay": _delay,
    **dict.fromkeys(("scale", "offset", "zero_point"), _measured),
}
"""What returns a part that may be assigned, beside those that are there, or raises, by its name."""


def _kept(scale: Scale) -> tuple[Any, ...]:
    """Return what the tensors of a scale that is kept mean."""
    if not scale.kept:
        return ()
    return type(scale), scale.axis, scale.block, scale.shifts, scale.mark


def _check_zero_point(parts: dict[str, Any]) -> None:
    grid, scaling = parts.get("grid"), parts.get("scaling")
    if scaling is not None and scaling.shifts == "zero_point" and not isinstance(grid, Int):
        raise ArgumentError(f"zero_point is for st.grids.Int, got {grid}; use offset=True")
