"""Counts: the draw of every family with the backward that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import check_not_onnx
from ...core.noise import Noise, Place
from ...core.operation import Draw
from ...core.precision import compute_dtype, narrowed
from ...estimators import CountEstimator
from .families import Family


@dataclass(frozen=True)
class CountDraw(Draw):
    """A count forward, the rule backward."""

    dims = ("...",)

    rule: CountEstimator
    family: Family
    place: Place

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        check_not_onnx("the draw of a count", "export what computes its mean")
        flat = x.to(torch.float64).reshape(-1)
        count = self.family.draw(flat, Noise(seed, *self.place)).reshape(x.shape)
        y = torch.where(self.family.mean(x).isnan(), torch.nan, count).to(x.dtype)
        return y, y.clone()

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs[0], outputs[1]

    def backward(self, grad: Tensor, x: Tensor, count: Tensor) -> tuple[Tensor, None]:
        wide = compute_dtype(x.dtype)
        family = self.family
        mean, dispersion = family.moments(x.to(wide))
        # The slope may be as small as the rule's weight is large.
        slope = grad.to(wide) * family.slope(mean, dispersion)
        gradient = self.rule.gradient(mean, dispersion, family.size, family.exact(count), slope)
        return narrowed(gradient.masked_fill(count.isnan(), torch.nan), x.dtype), None

    def jvp(self, tangents: Sequence[Tensor], x: Tensor, count: Tensor) -> Tensor:
        return self.backward(tangents[0], x, count)[0]
