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

Transform = Literal["", "tanh", "twn"]


def unit_tanh(x: Tensor) -> Tensor:
    """Return `tanh(x) / max |tanh(x)|`, the maximum held, or 1 where it is 0: as DoReFa-Net."""
    bent = torch.tanh(x)
    if not x.numel():
        return bent
    largest: Tensor = apply(Hold(), bent.abs().max())
    return bent / torch.where(largest == 0, 1, largest)


def thresholded(x: Tensor) -> Tensor:
    """Return 0 or, where `|x| > 0.7 mean |x|`, the sign times the mean size of those: that of TWN.

    Both means are those of an entry of the first dimension, and of all that a vector holds; the
    gradient is the identity's.
    """
    size = x.detach().abs().to(compute_dtype(x.dtype))
    dims = [*range(1, x.ndim)] or None
    kept = size > 0.7 * size.mean(dims, keepdim=True)
    mean = (size * kept).sum(dims, keepdim=True) / kept.sum(dims, keepdim=True).clamp(min=1)
    return straight_through((x.detach().sign() * kept * mean).to(x.dtype), x)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": unit_tanh, "twn": thresholded}
