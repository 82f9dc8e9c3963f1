"""Rules that weigh the gradient by where an input lies in its cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import ArgumentError, check_at_least, check_number, check_positive
from ..core.precision import in_range
from ..core.registry import rule
from ..grids import Placed
from .grid import GridEstimator, passed


@rule("ewgs")
@dataclass(frozen=True)
class EWGS(GridEstimator):
    """Element-wise gradient scaling: more where the step and the error agree in sign.

    The gradient to x is `g (1 + delta sign(g) (v - q))` where `n <= v <= p`, else 0, with v and q
    in steps. A delta given for inputs in [0, 1] is divided by the number of values less 1.

    Args:
        delta: in steps, >= 0.

    Higher order: differentiates the formula; there is no forward mode, as the rule is not linear
    in g.

    Example:
        >>> x = torch.tensor([0.75, 9.0], requires_grad=True)
        >>> st.fake_quantize(x, 1.0, grid=st.grids.Int(4), rule="ewgs").sum().backward()
        >>> x.grad
        tensor([0.9500, 0.0000])

    References:
        Lee, Kim, Ham, "Network quantization with element-wise gradient scaling", 2021, eq. 4.
    """

    linear: ClassVar[bool] = False
    delta: float = 0.2

    def __post_init__(self) -> None:
        check_at_least("delta", self.delta, 0)

    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        scaled = grad * (1 + self.delta * grad.sign() * at.error)
        return torch.where(self.within(at), scaled, 0)

    def within(self, at: Placed) -> Tensor:
        return at.inside("value") | (at.v == at.q)  # the ends too


@rule("trust")
@dataclass(frozen=True)
class Trust(GridEstimator):
    """The trust mask of QuEST: `g` where the error is small, else 0.

    The gradient to x is `g` where `|v - q|` is at most the bound; at half a step that is the range
    and half a step beyond its ends.

    Args:
        bound: in steps, > 0.

    Example:
        >>> x = torch.tensor([0.3, 7.4, 7.6], requires_grad=True)
        >>> st.fake_quantize(x, 1.0, grid=st.grids.Int(4), rule="trust").sum().backward()
        >>> x.grad
        tensor([1., 1., 0.])

    References:
        Panferov et al., "QuEST: stable training of LLMs with 1-bit weights and activations", 2025,
        section 3.2.
    """

    bound: float = 0.5

    def __post_init__(self) -> None:
        check_positive("bound", self.bound)

    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        return passed(at.error.abs() <= self.bound, grad)


@rule("dge")
@dataclass(frozen=True)
class DGE(GridEstimator):
    """The differentiable gradient estimator: steeper the nearer a threshold is.

    The gradient to x is `g min(m^(1/k - 1) / k, cap)` where the code is in the range, else 0; m is
    0 at a threshold and 1 at a value of the grid.

    Args:
        k: > 1; the larger, the flatter between thresholds.
        cap: of the slope, > 0; without it there would be none at a threshold.

    Example:
        >>> x = torch.tensor([1.0, 1.5], requires_grad=True)
        >>> st.fake_quantize(x, 1.0, grid=st.grids.Int(4), rule="dge").sum().backward()
        >>> x.grad
        tensor([0.2000, 3.0000])

    References:
        Wang et al., "Optimizing large language model training using FP4 quantization", 2025, eq. 8.
    """

    k: float = 5.0
    cap: float = 3.0

    def __post_init__(self) -> None:
        k = check_number("k", self.k)
        if not isinstance(k, Tensor) and not k > 1:
            raise ArgumentError(f"k must be above 1, got {self.k}")
        check_positive("cap", self.cap)

    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        power = 1 / self.k - 1
        steepest = (self.cap * self.k) ** (1 / power)  # the m at which the cap is reached
        m = 1 - 2 * at.error.abs()
        flat = m > steepest
        cap = in_range(self.cap, m.dtype)
        slope = torch.where(flat, torch.where(flat, m, 1) ** power / self.k, cap)
        return torch.where(self.within(at), grad * slope, 0)
