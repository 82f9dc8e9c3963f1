"""What the pointwise kernels must equal, in plain torch."""

from __future__ import annotations

from torch import Tensor

from ...core.kernels import in_its_order, kernel, like
from ...core.precision import cast
from ...surrogates.window import window_bits, window_shape


@kernel("(Tensor x) -> Tensor", in_its_order)
def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, -1 where x < 0, NaN where x is."""
    return (x >= 0).to(x.dtype).mul_(2).sub_(1).add_(_zero_or_nan(x))


@kernel(
    "(Tensor x, float centre, float bound, bool includes_bound, bool fixed) -> (Tensor, Tensor)",
    like,
    window_shape,
)
def sign_and_window(
    x: Tensor, centre: float, bound: float, includes_bound: bool, fixed: bool
) -> tuple[Tensor, Tensor]:
    """`sign` and the `window_bits` that backward needs, in one pass."""
    return sign(x), window_bits(x, centre, bound, includes_bound, fixed)


@kernel("(Tensor x, float threshold) -> Tensor", in_its_order)
def heaviside(x: Tensor, threshold: float) -> Tensor:
    """1 where x > threshold, 0 where x <= threshold, NaN where x is."""
    return (x > cast(threshold, x.dtype)).to(x.dtype).add_(_zero_or_nan(x))


@kernel("(Tensor x, float threshold) -> Tensor", in_its_order)
def ternary(x: Tensor, threshold: float) -> Tensor:
    """sign(x) where |x| > threshold, 0 where |x| <= threshold, NaN where x is."""
    threshold = cast(threshold, x.dtype)
    y = (x > threshold).to(x.dtype).sub_((x < -threshold).to(x.dtype))
    return y.add_(_zero_or_nan(x))


def _zero_or_nan(x: Tensor) -> Tensor:
    # On the CPU torch.where, and masked_fill with its mask, take longer than all the rest.
    return x.clamp(0, 0)
