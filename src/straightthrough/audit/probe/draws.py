"""Draws that can be probed: their logits, and what they return at an outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ...core.operation import Operation
from ...ops.bernoulli.operation import BinaryDraw, SurrogateDraw
from ...ops.bernoulli.reference import as_logits
from ...ops.categorical.operation import Lookup, NumberDraw, OneHotDraw

Inputs = Sequence[Tensor]


@dataclass(frozen=True)
class Draw:
    """A kind of draw.

    Attributes:
        name: the operator's.
        logits: `(..., C)`, out of the operation and its inputs.
        value: what is returned for one-hots `(R, C)`, a row an outcome, out of these and the
            operation's inputs.
    """

    name: str
    logits: Callable[[Operation, Inputs], Tensor]
    value: Callable[[Tensor, Inputs], Tensor]


def _given(operation: Operation, inputs: Inputs) -> Tensor:
    return inputs[0]


def _pair(operation: Operation, inputs: Inputs) -> Tensor:
    x = as_logits(inputs[0], cast(BinaryDraw | SurrogateDraw, operation).of_probs)
    return torch.stack([torch.zeros_like(x), x], -1)


def _number(one_hot: Tensor, inputs: Inputs) -> Tensor:
    classes = one_hot.shape[-1]
    return one_hot @ torch.arange(classes, dtype=one_hot.dtype, device=one_hot.device)


_BINARY = Draw("bernoulli", _pair, lambda one_hot, _: one_hot[..., 1])

DRAWS: dict[type[Operation], Draw] = {
    OneHotDraw: Draw("categorical", _given, lambda one_hot, _: one_hot),
    NumberDraw: Draw("categorical_integer", _given, _number),
    Lookup: Draw("categorical_lookup", _given, lambda one_hot, inputs: one_hot @ inputs[1]),
    BinaryDraw: _BINARY,
    SurrogateDraw: _BINARY,
}
