"""What an operator is given on a GPU, refused where its kernel can't read it, as in arguments.h.

Nothing is read from the device: an index is compared with classes, and never followed unchecked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def refuse(*parts: Any) -> None:
    """Raise what the kernels for the CPU raise."""
    raise RuntimeError("".join(map(str, parts)))


def described(x: Tensor) -> str:
    """Return the dtype, the shape and the device of a tensor, in words."""
    return f"{x.dtype} of shape {[*x.shape]} on {x.device}"


def check_floating(name: str, x: Tensor) -> None:
    """Refuse what is no dense tensor of a floating dtype that is read."""
    if x.dtype not in FLOATING or x.layout != torch.strided:
        refuse(name, " must be dense and float32, float64, bfloat16 or float16, got ", described(x))


def check_rows(name: str, x: Tensor) -> None:
    """Refuse what has no last dimension of at least one class."""
    check_floating(name, x)
    if x.ndim == 0 or x.shape[-1] == 0:
        refuse(name, " must have a last dimension of at least one class, got ", described(x))


def check_alike(name: str, x: Tensor, like: Tensor) -> None:
    """Refuse what has another dtype, shape or device than the input."""
    if (x.dtype, x.shape, x.device, x.layout) != (like.dtype, like.shape, like.device, like.layout):
        refuse(
            name,
            " must have the dtype and the shape of the input, ",
            described(like),
            ", got ",
            described(x),
        )


def check_index(index: Tensor, logits: Tensor) -> None:
    """Refuse what is not one int64 a row."""
    wanted = (torch.int64, logits.shape[:-1], logits.device)
    if (index.dtype, index.shape, index.device) != wanted:
        refuse("index must be int64, one a row of ", described(logits), ", got ", described(index))


def check_bits(name: str, truth: Tensor, of: Tensor, planes: int) -> None:
    """Refuse what is neither so many bits an element nor a bool each."""
    bits = truth.dtype == torch.uint8 and truth.shape == (planes * ((of.numel() + 7) // 8),)
    bools = truth.dtype == torch.bool and truth.shape == of.shape
    if truth.device != of.device or not (bits or bools):
        refuse(
            name,
            " must be uint8 with a bit an element, or bool, of ",
            described(of),
            ", got ",
            described(truth),
        )


def check_noise(seed: Tensor, offset: int, like: Tensor) -> None:
    """Refuse a seed that is not one int64 beside the input, and an offset out of range."""
    if seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != like.device:
        refuse("seed must be one int64 number on ", like.device, ", got ", described(seed))
    if not 0 <= offset < 2**62:
        refuse("offset must lie in [0, 2^62), got ", offset)


def check_samples(samples: int) -> None:
    """Refuse more samples than the counter of the noise tells apart."""
    if not 1 <= samples <= 2**24:
        refuse("samples must lie in [1, ", 2**24, "], got ", samples)
