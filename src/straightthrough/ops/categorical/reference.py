"""What the categorical kernels must equal, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.kernels import index as class_number
from ...core.kernels import kernel, like
from ...core.noise import Noise, gumbel, in_blocks
from ...core.precision import cast, compute_dtype
from ...relaxations.jacobian import tempered


@kernel("(Tensor logits, Noise noise) -> Tensor", class_number)
def draw_index(logits: Tensor, noise: Noise) -> Tensor:
    """Draw a class a row from `softmax(logits)` by inverse CDF; -1 where a row has none.

    Sums are held in float64, so rare classes among many are drawn at their rate.
    """
    wide = logits.to(compute_dtype(logits.dtype))
    largest = wide.amax(-1, keepdim=True)
    uniform = noise.rows(largest.numel()).reshape(largest.shape)
    # Adding 0 gives a row whatever batch the seed has under vmap; searchsorted wants it there.
    weight = torch.exp(wide - (largest + (0 * uniform).to(wide.dtype)))
    cumulative = weight.cumsum(-1, dtype=torch.float64).contiguous()
    total = cumulative[..., -1:]
    # u < 1 - 2^-53 keeps u * total below total, so a class of positive weight is always found.
    if torch.onnx.is_in_onnx_export():  # which has no searchsorted
        index = (cumulative <= uniform * total).sum(-1, keepdim=True)
    else:
        index = torch.searchsorted(cumulative, uniform * total, right=True)
    return torch.where(total.isnan(), -1, index).squeeze(-1)


def one_hot_rows(index: Tensor, logits: Tensor) -> Tensor:
    """Return the one-hot of `index` in the logits' shape and dtype, a NaN row for -1."""
    invalid = (index < 0).unsqueeze(-1)
    zero = torch.zeros((), dtype=logits.dtype, device=logits.device)
    off, on = torch.where(invalid, torch.nan, zero), torch.where(invalid, torch.nan, zero + 1)
    return off.expand(logits.shape).scatter(-1, index.clamp(min=0).unsqueeze(-1), on)


@kernel("(Tensor logits, Noise noise) -> (Tensor, Tensor)", like, class_number)
def draw(logits: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Return the one-hot of a drawn class a row, and the class."""
    index = draw_index(logits, noise)
    return one_hot_rows(index, logits), index


def argmax_index(logits: Tensor) -> Tensor:
    """Return the first largest class a row; -1 where a row holds NaN or allows no class."""
    value, index = logits.max(-1)
    return torch.where(value.isnan() | value.isneginf(), -1, index)


@kernel("(Tensor logits) -> Tensor")
def argmax_hot(logits: Tensor) -> Tensor:
    """Return the one-hot of the first largest class a row."""
    return one_hot_rows(argmax_index(logits), logits)


def gumbel_noise(logits: Tensor, noise: Noise) -> Tensor:
    """Return one Gumbel a class, in float32 for half logits."""
    wide, classes = compute_dtype(logits.dtype), logits.shape[-1]

    def block(first: int, rows: Tensor) -> Tensor:
        return gumbel(noise.after(first).classes(rows.shape[0], classes, wide))

    return in_blocks(block, logits.reshape(-1, classes)).reshape(logits.shape)


@kernel("(Tensor logits, float tau, Noise noise) -> Tensor")
def gumbel_softmax(logits: Tensor, tau: float, noise: Noise) -> Tensor:
    """Return `softmax((logits + G) / tau)`."""
    wide = logits.to(compute_dtype(logits.dtype))
    # Beside the largest logit, however large, no digit of the noise is lost.
    difference = wide - wide.detach().amax(-1, keepdim=True)
    noisy = difference + gumbel_noise(logits, noise)
    return tempered(noisy, cast(tau, wide.dtype)).to(logits.dtype)
