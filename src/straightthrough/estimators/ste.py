"""Rules of a quantized number that pass the gradient or stop it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.registry import rule
from ..core.rules import Saved, saves
from ..grids import Placed
from ..grids.grid import Inside
from .grid import GridEstimator, check_inside, passed


@rule("ste")
@dataclass(frozen=True)
class STE(GridEstimator):
    """The straight-through estimator of a quantized number: `g` where its code is in the range.

    With `v = x / s`, q the value of the grid and n, p its ends: the gradient to x is `g` where
    `n <= round(v) <= p`, else 0; to the scale the sum of `g (q - v)` there and of `g q` elsewhere.
    Torch's own fake quantization has this mask, and its learnable one this gradient to the scale.

    Args:
        inside: `"code"`, or `"value"` for `n < v < p`.

    Cost: one bit an element is saved where the scale gets no gradient, else the input.

    Example:
        >>> x = torch.tensor([-9.0, 7.4, 7.6], requires_grad=True)
        >>> st.fake_quantize(x, 1.0, grid=st.grids.Int(4), rule="ste").sum().backward()
        >>> x.grad
        tensor([0., 1., 0.])

    References:
        Bengio, Leonard, Courville, "Estimating or propagating gradients through stochastic
        neurons for conditional computation", 2013, section 4.
    """

    inside: Inside = "code"

    def __post_init__(self) -> None:
        check_inside(self.inside)

    @saves(Saved.WINDOW)
    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        return passed(self.within(at), grad)


@rule("tqt")
@dataclass(frozen=True)
class TQT(GridEstimator):
    """Trained thresholds (TQT): the gradients of `STE`, for a scale that is a power of two.

    With `s = 2^ceil(log2 t) / 2^(bits-1)` and the gradient of ceil that of the identity, the
    chain rule gives `log2 t` the published `s ln 2` times the gradient to s.

    Example:
        >>> s = torch.tensor(0.5, requires_grad=True)
        >>> st.fake_quantize(torch.tensor([0.4, 9.0]), s, grid=st.grids.Int(4), rule="tqt")
        tensor([0.5000, 3.5000], grad_fn=<NodeBackward>)

    References:
        Jain et al., "Trained quantization thresholds for accurate and efficient fixed-point
        inference of deep neural networks", 2019, eqs. 6 and 8.
    """

    @saves(Saved.WINDOW)
    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        return passed(self.within(at), grad)


@rule("pact")
@dataclass(frozen=True)
class PACT(GridEstimator):
    """A learned clipping level (PACT): the scale learns from what is clipped alone.

    The gradient to x is `g` where `n < v < p`, else 0; to the scale the sum of `g n` and `g p`
    beyond the ends. With the level `a = p s` of an unsigned grid that is the published sum of `g`
    over `x >= a`.

    Example:
        >>> s = torch.tensor(1.0, requires_grad=True)
        >>> grid = st.grids.Int(2, signed=False)
        >>> st.fake_quantize(torch.tensor([0.4, 9.0]), s, grid=grid, rule="pact").sum().backward()
        >>> s.grad
        tensor(3.)

    References:
        Choi et al., "PACT: parameterized clipping activation for quantized neural networks", 2018,
        eq. 3.
    """

    inside = "value"

    @saves(Saved.WINDOW)
    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        return passed(self.within(at), grad)

    def scale_gradient(self, at: Placed, grad: Tensor) -> Tensor:
        return grad * torch.where(self.within(at), 0, at.q)


@dataclass(frozen=True)
class Through(GridEstimator):
    """What `Identity` is for a quantized number: `g`, in the range or not."""

    @saves(Saved.NOTHING)
    def gradient(self, at: Placed, grad: Tensor) -> Tensor:
        return grad.clone()
