"""The rotation trick: z is turned and scaled into q, and the gradient with it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import check_positive
from ..core.precision import in_range
from ..core.registry import rule
from .pair import PairEstimator, factored, has_direction, inner


@rule("rotation")
@dataclass(frozen=True)
class Rotation(PairEstimator):
    """The gradient of `q = s R z`, s and the rotation R held: `s R^T g` to z, none to q.

    `u = z / |z|`, `v = q / |q|`, `s = |q| / |z|`, and R turns u into v in their plane:
    `R = I - (u + v)(u + v)^T / (1 + <u, v>) + 2 v u^T`.

    Where z or q is 0 or not finite, the gradient passes unchanged. Where v is all but -u, no plane
    is given, and the middle term is left out.

    Args:
        max_scale: s is at most this, > 0. A z near 0 has a gradient without bounds otherwise.

    Cost: six passes over z and q, which are saved.

    Higher order: differentiates the formula in z, q and `g`.

    References:
        Fifty et al., "Restructuring vector quantization with the rotation trick", 2025, eq. 4.

    Example:
        >>> rule = st.estimators.Rotation()
        >>> rule.vjp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([3.0, 4.0]))
        (tensor([ 8., -6.]), tensor([0., 0.]))
    """

    max_scale: float = 1e6

    def __post_init__(self) -> None:
        check_positive("max_scale", self.max_scale)

    def gradient(self, z: Tensor, q: Tensor, grad: Tensor) -> tuple[Tensor, None]:
        given, u, v, scale = self._turn(z, q)
        turned = scale * (grad - _reflected(u, v, grad) + 2 * u * inner(v, grad))
        return torch.where(given, turned, grad), None

    def tangent(self, z: Tensor, q: Tensor, to_z: Tensor, to_q: Tensor) -> Tensor:
        given, u, v, scale = self._turn(z, q)
        turned = scale * (to_z - _reflected(u, v, to_z) + 2 * v * inner(u, to_z))
        return torch.where(given, turned, to_z)

    def _turn(self, z: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return which rows of z and q have directions, and u, v and s of these."""
        given = has_direction(z) & has_direction(q)
        u, largest_of_z, rest_of_z = factored(torch.where(given, z, 1))
        v, largest_of_q, rest_of_q = factored(torch.where(given, q, 1))
        scale = largest_of_q / largest_of_z * (rest_of_q / rest_of_z)
        return given, u, v, scale.clamp(max=in_range(self.max_scale, scale.dtype))


def _reflected(u: Tensor, v: Tensor, x: Tensor) -> Tensor:
    """Return `(u + v) <u + v, x> / (1 + <u, v>)`, 0 where `1 + <u, v>` is below 1e-6."""
    between = u + v
    square = inner(between, between) / 2  # that is 1 + <u, v>, to more digits
    plane = square < 1e-6
    return torch.where(plane, 0, between * inner(between, x) / torch.where(plane, 1, square))
