"""Categorical operators: every forward with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.noise import Noise, Place
from ...core.operation import Draw, Operation, RuledDraw
from ...core.precision import cast, compute_dtype, narrowed
from ...core.rules import Relaxation
from ...estimators.categorical import CategoricalEstimator
from ...relaxations.jacobian import divided, is_one
from ...relaxations.softmax import softmax_backward_of_value
from .lookup import lookup_backward
from .reference import argmax_hot, draw, draw_index, gumbel_softmax


def forward_logits(logits: Tensor, estimator: CategoricalEstimator) -> Tensor:
    """Return the logits of the law that the estimator has forward draw from."""
    tau = estimator.tau_forward
    wide = compute_dtype(logits.dtype)
    return logits if is_one(tau) else divided(logits.to(wide), cast(tau, wide))


@dataclass
class OneHotDraw(RuledDraw):
    """A one-hot drawn from softmax(logits) forward, the estimator backward."""

    name = "st.categorical"
    dims = ("... C",)

    rule: CategoricalEstimator
    place: Place

    def forward(self, logits: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        noise = Noise(seed, *self.place)
        if is_one(self.rule.tau_forward):
            return draw(logits, noise)
        y, index = draw(forward_logits(logits, self.rule), noise)
        return y.to(logits.dtype), index

    def backward(
        self, grad: Tensor, logits: Tensor, index: Tensor, *seed: Tensor
    ) -> tuple[Tensor, None]:
        return self.rule.backward(logits, index, grad, self.noise(seed)), None


@dataclass
class Lookup(RuledDraw):
    """The row of a table that a draw names, without the one-hot."""

    name = "st.categorical_lookup"
    dims = ("... C", "C D")

    rule: CategoricalEstimator
    place: Place

    def forward(self, logits: Tensor, table: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        index = draw_index(forward_logits(logits, self.rule), Noise(seed, *self.place))
        value = table[index.clamp(min=0)]
        return torch.where((index < 0).unsqueeze(-1), torch.nan, value), index

    def backward(
        self, grad: Tensor, logits: Tensor, table: Tensor, index: Tensor, *seed: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        noise = self.noise(seed)
        return *lookup_backward(self.rule, logits, table, index, grad, noise), None


@dataclass
class NumberDraw(RuledDraw):
    """The number of a drawn class forward; backward that of its one-hot times (0, ..., C - 1)."""

    name = "st.categorical_integer"
    dims = ("... C",)

    rule: CategoricalEstimator
    place: Place

    def forward(self, logits: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        index = draw_index(forward_logits(logits, self.rule), Noise(seed, *self.place))
        return torch.where(index < 0, torch.nan, index.to(logits.dtype)), index

    def backward(
        self, grad: Tensor, logits: Tensor, index: Tensor, *seed: Tensor
    ) -> tuple[Tensor, None]:
        wide = compute_dtype(logits.dtype)
        number = torch.arange(logits.shape[-1], dtype=wide, device=logits.device)
        to_one_hot = grad.to(wide).unsqueeze(-1) * number
        return self.rule.backward(logits, index, to_one_hot, self.noise(seed)), None


@dataclass
class Argmax(Operation):
    """The one-hot of the largest logit forward, a relaxation backward."""

    dims = ("... C",)

    relaxation: Relaxation

    def forward(self, logits: Tensor) -> tuple[Tensor]:
        return (argmax_hot(logits),)

    def backward(self, grad: Tensor, logits: Tensor) -> tuple[Tensor]:
        return (self.relaxation.backward(logits, grad),)

    def jvp(self, tangents: Sequence[Tensor], logits: Tensor) -> Tensor:
        return self.relaxation.forward(logits, tangents[0])


@dataclass
class GumbelSoftmax(Draw):
    """The relaxed draw and its own gradient, which needs the value alone.

    A half-precision value is too coarse for that: there the logits and the seed are saved, and the
    value is made again.
    """

    dims = ("... C",)

    tau: float
    place: Place

    def forward(self, logits: Tensor, seed: Tensor) -> tuple[Tensor]:
        return (gumbel_softmax(logits, self.tau, Noise(seed, *self.place)),)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return outputs if outputs[0].itemsize > 2 else inputs

    def backward(self, grad: Tensor, *saved: Tensor) -> tuple[Tensor, None]:
        wide = compute_dtype(grad.dtype)
        y = saved[0] if len(saved) == 1 else self.forward(saved[0].to(wide), saved[1])[0]
        gradient = softmax_backward_of_value(y, grad.to(wide), self.tau)
        # J(y) g is at most half as large as g.
        in_range = not isinstance(self.tau, Tensor) and self.tau >= 0.5
        return gradient.to(grad.dtype) if in_range else narrowed(gradient, grad.dtype), None

    def jvp(self, tangents: Sequence[Tensor], *saved: Tensor) -> Tensor:
        return self.backward(tangents[0], *saved)[0]
