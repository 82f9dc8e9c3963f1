"""What weights go through before they are quantized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..core.engine import apply
from ..core.precision import compute_dtype
from ..core.straight_through import straight_through
from ..ops.quantize.operation import Hold
from ..scales import Scale

Transform = Literal["", "tanh", "twn"]


def unit_tanh(x: Tensor, _: Scale) -> Tensor:
    """Return `tanh(x) / max |tanh(x)|`, the maximum held, or 1 where it is 0: as DoReFa-Net."""
    bent = torch.tanh(x)
    if not x.numel():
        return bent
    largest: Tensor = apply(Hold(), bent.abs().max())
    return bent / torch.where(largest == 0, 1, largest)


def thresholded(x: Tensor, scale: Scale) -> Tensor:
    """Return 0 or, where `|x| > 0.7 mean |x|`, the sign times the mean size of those: that of TWN.

    Both means are those of what shares a scale, as other sizes would be rounded to its own, or of
    all that a vector of channels holds; the gradient is the identity's.
    """
    blocks = x.detach() if x.ndim == 1 and scale.axis is not None else scale.blocks(x.detach())
    size = blocks.abs().to(compute_dtype(x.dtype))
    dims = [0] if size.ndim == 1 else scale.shared(size.ndim)
    kept = size > 0.7 * size.mean(dims, keepdim=True)
    mean = (size * kept).sum(dims, keepdim=True) / kept.sum(dims, keepdim=True).clamp(min=1)
    return straight_through((blocks.sign() * kept * mean).to(x.dtype).reshape(x.shape), x)


TRANSFORMS: dict[str, Callable[[Tensor, Scale], Tensor]] = {"tanh": unit_tanh, "twn": thresholded}


def transformed(x: Tensor, transform: Transform, scale: Scale) -> Tensor:
    """Return what `x` becomes before it is quantized by a scale."""
    return TRANSFORMS[transform](x, scale) if transform else x
