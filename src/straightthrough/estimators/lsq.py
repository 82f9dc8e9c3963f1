"""Rules with a learned step size: LSQ, LSQ+, and a smoother rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import ArgumentError, check_limit, check_number
from ..core.registry import rule
from ..core.rules import Saved, saves
from ..grids import Placed
from ..grids.grid import Inside
from .grid import GridEstimator, check_inside, passed

STEEPEST = 1 / (math.sqrt(2) * math.pi)
"""The amplitude at which the smoother rounding has no slope in the middle of a cell."""


@rule("lsq")
@dataclass(frozen=True)
class LSQ(GridEstimator):
    """A learned step size (LSQ).

    With `v = x / s`, q the value of the grid and n, p its ends: the gradient to x is `g` where
    `n < v < p`, else 0; to the scale the sum of `g (q - v)` there, `g n` and `g p` beyond it,
    times `1 / sqrt(N p)`. N is the number of elements that share the scale. The examples of a batch
    don't count: N leaves out the first dimension of an input of two or more, where the scale is
    shared along it. For weights set `batch_dims=0`.

    Args:
        inside: `"value"`, or `"code"` for `n <= round(v) <= p`.
        batch_dims: how many leading dimensions N leaves out, where there are more.

    Cost: the input is saved, or where the scale gets no gradient one bit an element.

    Example:
        >>> s = torch.tensor(0.5, requires_grad=True)
        >>> x = torch.tensor([0.4, 9.0, -0.1, 0.0])
        >>> st.fake_quantize(x, s, grid=st.grids.Int(3), rule="lsq").sum().backward()
        >>> s.grad  # (1 - .8 + 3 + .2) / sqrt(4 * 3)
        tensor(0.9815)

    References:
        Esser et al., "Learned step size quantization", 2020, eqs. 3 and 5, and section 2.2.
    """

    inside: Inside = "value"
    batch_dims: int = 1

    def __post_init__(self) -> None:
        check_inside(self.inside)
        check_limit("batch_dims", self.batch_dims)

    @saves(Saved.WINDOW)
    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        return passed(self.within(at), grad)

    def factor(self, at: Placed) -> float:
        count = at.sharing(self.batch_dims) or 1
        return (count * at.grid.largest_code) ** -0.5


@rule("lsq_plus")
@dataclass(frozen=True)
class LSQPlus(LSQ):
    """A learned step size and offset (LSQ+): `LSQ` with its factor for the offset too.

    With the offset b, `y = s q + b` and `v = (x - b) / s`: the gradient to b is the sum of `g`
    beyond the range, times `1 / sqrt(N p)`.

    Args:
        inside, batch_dims: as in `LSQ`.

    Cost: the input is saved, or where the scale gets no gradient one bit an element.

    Example:
        >>> b = torch.tensor(0.25, requires_grad=True)
        >>> x, grid = torch.tensor([0.4, 9.0, -0.1, 0.0]), st.grids.Int(2, signed=False)
        >>> st.fake_quantize(x, 0.5, offset=b, grid=grid, rule="lsq_plus").sum().backward()
        >>> b.grad  # 3 / sqrt(4 * 3)
        tensor(0.8660)

    References:
        Bhalgat et al., "LSQ+: improving low-bit quantization through learnable offsets and better
        initialization", 2020, eqs. 4 to 6.
    """

    def shift_factor(self, at: Placed) -> float:
        return self.factor(at)


@rule("poly")
@dataclass(frozen=True)
class Poly(LSQ):
    """A smoother rounding (StableQAT): less gradient in the middle of a cell than at its ends.

    With d how far `v` lies from the value that it became, in steps, and A the amplitude: the
    gradient to x is `g (1 - c) / (1 + c)` in the range, `c = sqrt(2) pi A cos(pi d)`: at amplitude
    0 that of `LSQ`. The gradient to the scale is that of `LSQ`.

    Args:
        inside, batch_dims: as in `LSQ`.
        amplitude: A, in [0, 0.225).

    Example:
        >>> x = torch.tensor([1.0, 1.5, 9.0], requires_grad=True)
        >>> st.fake_quantize(x, 1.0, grid=st.grids.Int(4), rule="poly").sum().backward()
        >>> x.grad
        tensor([0.3848, 1.0000, 0.0000])

    References:
        "StableQAT: stable quantization-aware training at ultra-low bitwidths", 2026, the rotated
        Fourier surrogate of order 1.
    """

    amplitude: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        number = check_number("amplitude", self.amplitude)
        if not isinstance(number, Tensor) and not 0 <= number < 0.225:
            raise ArgumentError(f"amplitude must lie in [0, 0.225), got {self.amplitude}")

    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        c = self.amplitude / STEEPEST * torch.cos(math.pi * at.error)
        return torch.where(self.within(at), grad * (1 - c) / (1 + c), 0)
