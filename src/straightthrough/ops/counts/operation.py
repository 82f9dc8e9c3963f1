"""Counts: the draw of every family with the backward that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...core.errors import check_not_onnx
from ...core.noise import Noise, Place
from ...core.operation import Draw
from ...core.precision import check_has_float64
from ...estimators import CountEstimator
from .families import Family
from .reference import pulled


@dataclass
class CountDraw(Draw):
    """A count forward, the rule backward."""

    dims = ("...",)

    rule: CountEstimator
    family: Family
    place: Place

    def forward(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        check_not_onnx("the draw of a count", "export what computes its mean")
        check_has_float64("a count", x.device)
        y = self.family.draw(x, Noise(seed, *self.place))
        return y, y.clone()

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return inputs[0], outputs[1]

    def backward(self, grad: Tensor, x: Tensor, count: Tensor) -> tuple[Tensor, None]:
        given = (x, count, grad, *self.family.parameter)
        pull = getattr(type(self.rule).gradient, "kernel", pulled)
        return pull(self.rule, *given), None

    def jvp(self, tangents: Sequence[Tensor], x: Tensor, count: Tensor) -> Tensor:
        return self.backward(tangents[0], x, count)[0]
