"""What the categorical kernels must equal, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.gumbels import gumbel_noise
from ...core.internals import transforms_active
from ...core.kernels import index as class_number
from ...core.kernels import kernel, like
from ...core.noise import Noise
from ...core.precision import cast, compute_dtype
from ...core.sums import share, summed
from ...relaxations.jacobian import tempered


@kernel("(Tensor logits, Noise noise) -> Tensor", class_number)
def draw_index(logits: Tensor, noise: Noise) -> Tensor:
    """Draw a class a row from `softmax(logits)` by inverse CDF; -1 where a row has none.

    Weights are whole numbers, so rare classes among many are drawn at their rate, and their sums
    are exact: the same in whatever order a device adds.
    """
    return _drawn(logits, noise)[0]


def _drawn(logits: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return the class of each row, and 0 a row, NaN where it has none."""
    p = torch.softmax(logits, -1, dtype=compute_dtype(logits.dtype))
    bits = noise.bits(p[..., 0].numel()).reshape(p.shape[:-1]).unsqueeze(-1)
    if transforms_active():  # searchsorted wants whatever batch the seed has under vmap
        p = p + (0 * bits).to(p.dtype)
    cumulative = summed(p)
    target = share(bits, cumulative[..., -1:])
    if torch.onnx.is_in_onnx_export():  # which has no searchsorted
        index = (cumulative <= target).sum(-1, keepdim=True)
    else:
        index = torch.searchsorted(cumulative, target, right=True)
    first = p[..., :1]
    return index.masked_fill(first.isnan(), -1).squeeze(-1), (0 * first).to(logits.dtype)


def one_hot_rows(index: Tensor, logits: Tensor) -> Tensor:
    """Return the one-hot of `index` in the logits' shape and dtype, a NaN row for -1."""
    off = torch.zeros_like(index, dtype=logits.dtype).masked_fill(index < 0, torch.nan)
    return _hot(index, off.unsqueeze(-1), logits)


def _hot(index: Tensor, off: Tensor, logits: Tensor) -> Tensor:
    return off.expand(logits.shape).scatter(-1, index.clamp(min=0).unsqueeze(-1), off + 1)


@kernel("(Tensor logits, Noise noise) -> (Tensor, Tensor)", like, class_number)
def draw(logits: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return the one-hot of a drawn class a row, and the class."""
    index, off = _drawn(logits, noise)
    return _hot(index, off, logits), index


def argmax_index(logits: Tensor) -> Tensor:
    """Return the first largest class a row; -1 where a row holds NaN or allows no class."""
    value, index = logits.max(-1)
    invalid = value.isnan() | value.isneginf()
    if torch.onnx.is_in_onnx_export():  # whose runtimes may find a largest beside NaN
        invalid = invalid | logits.isnan().any(-1)
    return torch.where(invalid, -1, index)


@kernel("(Tensor logits) -> Tensor")
def argmax_hot(logits: Tensor) -> Tensor:
    """Return the one-hot of the first largest class a row."""
    return one_hot_rows(argmax_index(logits), logits)


@kernel("(Tensor logits, float tau, Noise noise) -> Tensor")
def gumbel_softmax(logits: Tensor, tau: float, noise: Noise) -> Tensor:
    """Return `softmax((logits + G) / tau)`."""
    wide = logits.to(compute_dtype(logits.dtype))
    # Beside the largest logit, however large, no digit of the noise is lost.
    difference = wide - wide.detach().amax(-1, keepdim=True)
    noisy = difference + gumbel_noise(logits, noise)
    return tempered(noisy, cast(tau, wide.dtype)).to(logits.dtype)
