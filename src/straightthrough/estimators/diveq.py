"""DiVeQ without its noise: the distance to the codeword moves, its direction is held."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.registry import rule
from .pair import PairEstimator, factored, has_direction, inner


@rule("diveq")
@dataclass(frozen=True)
class DiVeQ(PairEstimator):
    """The gradient of `z + |q - z| h`, the direction `h = (q - z) / |q - z|` held.

    `g - h <h, g>` to z and `h <h, g>` to q: the codebook learns from the task's loss alone, and
    needs none of its own. Where q = z, or one of them is not finite, the gradient passes
    unchanged to z, and q gets none.

    This is the limit of the published rule at noise of variance 0; with noise its value is not
    the codeword.

    Cost: four passes over z and q, which are saved.

    Higher order: differentiates the formula in z, q and `g`.

    References:
        Vali, Bäckström, Solin, "DiVeQ: differentiable vector quantization using the
        reparameterization trick", 2026.

    Example:
        >>> rule = st.estimators.DiVeQ()
        >>> rule.vjp(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0]), torch.tensor([5.0, 7.0]))
        (tensor([0., 7.]), tensor([5., 0.]))
    """

    def gradient(self, z: Tensor, q: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        along = _along(z, q, grad)
        return grad - along, along

    def tangent(self, z: Tensor, q: Tensor, to_z: Tensor, to_q: Tensor) -> Tensor:
        return to_z + _along(z, q, to_q - to_z)


def _along(z: Tensor, q: Tensor, x: Tensor) -> Tensor:
    """Return `h <h, x>`, 0 where there is no h."""
    way = q / 2 - z / 2  # which can't overflow
    given = has_direction(way)
    h = factored(torch.where(given, way, 1))[0]
    return torch.where(given, h * inner(h, x), 0)
