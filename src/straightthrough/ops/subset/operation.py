"""Subset operators: every forward with its backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...core.bits import pack
from ...core.internals import tracing
from ...core.noise import Noise, Place
from ...core.operation import Draw, Operation
from ...core.precision import narrowed
from ...core.rules import Relaxation
from ...estimators import SubsetEstimator
from .reference import draw_subset, perturbed, topk_hot


@dataclass
class TopK(Operation):
    """The k-hot of the k largest scores forward, a relaxation backward."""

    dims = ("... C",)

    k: int
    relaxation: Relaxation

    def forward(self, scores: Tensor) -> tuple[Tensor]:
        return (topk_hot(scores, self.k),)

    def backward(self, grad: Tensor, scores: Tensor) -> tuple[Tensor]:
        return (self.relaxation.backward(scores, grad, self.k),)

    def jvp(self, tangents: Sequence[Tensor], scores: Tensor) -> Tensor:
        return self.relaxation.forward(scores, tangents[0], self.k)


@dataclass
class PerturbedTopK(Draw):
    """The k-hot of the k largest of logits and Gumbels forward, a relaxation of those backward."""

    dims = ("... C",)

    k: int
    relaxation: Relaxation
    place: Place

    def forward(self, logits: Tensor, seed: Tensor) -> tuple[Tensor]:
        return (topk_hot(self._keys(logits, seed), self.k).to(logits.dtype),)

    def backward(self, grad: Tensor, logits: Tensor, seed: Tensor) -> tuple[Tensor, None]:
        keys = self._keys(logits, seed)
        gradient = self.relaxation.backward(keys, grad.to(keys.dtype), self.k)
        return narrowed(gradient, logits.dtype), None

    def jvp(self, tangents: Sequence[Tensor], logits: Tensor, seed: Tensor) -> Tensor:
        keys = self._keys(logits, seed)
        moved = self.relaxation.forward(keys, tangents[0].to(keys.dtype), self.k)
        return narrowed(moved, logits.dtype)

    def _keys(self, logits: Tensor, seed: Tensor) -> Tensor:
        return perturbed(logits, self.k, Noise(seed, *self.place))


@dataclass
class SubsetDraw(Draw):
    """An exact draw of k of n forward, the estimator backward."""

    name = "st.sample_subset"
    dims = ("... C",)

    k: int
    estimator: SubsetEstimator
    place: Place

    def forward(self, logits: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        y = draw_subset(logits, self.k, Noise(seed, *self.place))
        chosen = y > 0
        return y, chosen if tracing() else pack(chosen)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs[0], outputs[1]

    def backward(self, grad: Tensor, logits: Tensor, chosen: Tensor) -> tuple[Tensor, None]:
        return self.estimator.backward(logits, self.k, chosen, grad), None
