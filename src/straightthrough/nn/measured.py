"""What scales of quantizers share: what is finite, what ranks agree on, what was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.compiler import is_compiling

from ..core.errors import ArgumentError, ShapeError, check_floating, check_number, check_positive
from ..core.internals import held, transforms_active, unobserved
from ..core.mesh import everywhere, laid_as, on_mesh, whole
from ..core.once import before, runs_again
from ..core.precision import compute_dtype
from .statistics import together


def ranks() -> int:
    """Return the size of the process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def agreed(measured: Tensor, some: Tensor) -> Tensor:
    """Return the mean over those ranks of a process group, if there is one, that measured some.

    Where none did, it is what each of them has.
    """
    if ranks() == 1:
        return measured
    measured, some = whole(measured), whole(some).reshape(measured.shape)
    total, count = together(torch.stack([torch.where(some, measured, 0), some.to(measured)]))
    return torch.where(count > 0, total / count.clamp(min=1), measured)


def finite(x: Tensor) -> Tensor:
    """Return the input with NaN, which no scale measures, for what is not finite."""
    return torch.where(x.isfinite(), x, torch.nan)


def measurable(x: Tensor, shared: list[int], kept: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the input as `finite` does, and of which scales some element is; None of no scale.

    On no rank, that is. An input is 0 for a scale of which no element is.

    Raises:
        ArgumentError: if the input is empty, and there is no other rank that may have some; if what
            is kept is on the meta device alone.
    """
    if kept.is_meta and not x.is_meta:
        raise ArgumentError(
            "the scale is on the meta device, where none starts; call "
            "model.to_empty(device=...) before the state dict is loaded"
        )
    if not x.numel():
        if ranks() == 1 or is_compiling():
            raise ArgumentError("a scale starts from the first input, which is empty; pass some")
        x = x.new_full([max(size, 1) for size in x.shape], torch.nan)
    x = finite(x)
    some = ~x.isnan().all(shared, keepdim=True)
    return None if nowhere(some) else (torch.where(some, x, 0), some)


def nowhere(some: Tensor) -> bool:
    """Whether nothing is true, on no rank; where that can't be asked, False."""
    if is_compiling() or not (type(some) is Tensor or on_mesh(some)) or some.is_meta:
        return False
    return not bool(together(held(whole(some)).any().float()))


def move(buffer: Tensor, measured: Tensor, momentum: Tensor | float) -> None:
    """Move a running mean to what was measured, where that is a number."""
    measured = laid_as(whole(measured).to(buffer.dtype).reshape(buffer.shape), buffer)
    old = before(buffer)
    if isinstance(momentum, Tensor):
        momentum = momentum.to(old.dtype)
    buffer.copy_(blended(old, measured, momentum))


def blended(old: Tensor, new: Tensor, momentum: Tensor | float) -> Tensor:
    """Return a running mean moved to what is new, where that is a number."""
    return torch.where(new.isnan(), old, old.lerp(new, momentum))


def noted(attributes: dict[str, Any], measured: Tensor) -> bool:
    """Note what an input measured, and return whether it was: not if its forward runs again.

    Raises:
        ArgumentError: if it does, and the running mean has moved since, by another input; the
            gradient would be that of another scale.
    """
    if runs_again():
        last = attributes.get("_measured_last")
        with unobserved():
            if last is None or bool(torch.isclose(measured, last, 1e-3, equal_nan=True).all()):
                return False
        raise ArgumentError(
            "this forward runs again in backward, as torch.utils.checkpoint has it, and its "
            "Observed scale has moved since the first time, by another input: call the quantizer "
            "once between two backwards or outside of the checkpoint, have it in eval(), or use a "
            "Learned scale"
        )
    if not is_compiling() and not transforms_active():
        attributes["_measured_last"] = measured
    return True


def check_scales(shape: Sequence[int], kept: Tensor) -> None:
    """Raise unless scales of that shape lie along the dimension that those kept lie along."""
    # Dimensions may be in front where the axis is counted from the end.
    due = [1] * (len(shape) - kept.ndim) + [*kept.shape]
    if len(due) != len(shape) or any(a != b for a, b in zip(shape, due, strict=True)):
        raise ShapeError(
            f"the input has scales of shape {tuple(shape)}, but those that are kept are of "
            f"{tuple(kept.shape)}; make the quantizer with the input's shape=, and where the input "
            f"has grown, start_at(scale) with those of before and of what is new"
        )


def less(value: Tensor, learned: Tensor | None) -> Tensor:
    """Return what a parameter is added to for a value: others may share it, so it stays."""
    return value if learned is None else value - whole(learned.detach())


def added(at: Tensor, parameter: Tensor) -> Tensor:
    """Return a parameter added to what it started from, which is whole on every rank."""
    # One number, which is cut too, DTensors lay on every rank by themselves.
    return (at if at.ndim == 1 else laid_as(at, parameter)) + parameter


def beside(x: Tensor, scale: Tensor) -> Tensor:
    """Return a scale or an offset in a dtype that it may have beside `x`, and on its mesh."""
    if on_mesh(x):
        scale = everywhere(scale, x)
    wide = compute_dtype(x.dtype)
    return scale if scale.dtype in (x.dtype, wide) else scale.to(wide)


def given(
    name: str,
    value: Tensor | float,
    kept: Tensor,
    *,
    positive: bool,
    codes: tuple[int, int] | None = None,
) -> Tensor:
    """Return a number or a tensor, checked, of the shape and dtype of what is kept.

    What is a code itself lies in the range of the grid's `codes`.
    """
    if isinstance(value, Tensor):
        found = _laid(name, value, kept, positive)
    else:
        check = check_positive if positive else check_number
        found = torch.full_like(kept, check(name, value))
    if codes is not None and not bool(((found >= codes[0]) & (found <= codes[1])).all()):
        raise ArgumentError(
            f"{name} must lie in [{codes[0]}, {codes[1]}], the codes of the grid, got {value}; "
            f"choose the grid that it was found for, signed or not"
        )
    return found


def _laid(name: str, value: Tensor, kept: Tensor, positive: bool) -> Tensor:
    check_floating(name, value)
    value = value.detach().to(kept)
    if not bool((value.isfinite() & (value > 0 if positive else True)).all()):
        raise ArgumentError(f"{name} must be finite{' and above 0' * positive}, got {value}")
    if value.numel() not in (1, kept.numel()) or (value.ndim > 1 and value.shape != kept.shape):
        raise ShapeError(
            f"{name} must be one number or {tuple(kept.shape)}, got {tuple(value.shape)}"
        )
    return value.expand(kept.numel()).reshape(kept.shape) if value.ndim < 2 else value
