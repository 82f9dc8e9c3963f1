"""The softmax, the relaxation of deterministic selections."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import check_positive
from ..core.kernels import kernel
from ..core.precision import cast, in_compute_dtype, widened
from ..core.registry import rule
from ..core.rules import Relaxation
from .jacobian import relative_to, softmax_jacobian_product, tempered


@kernel("(Tensor y, Tensor grad, float tau) -> Tensor")
def softmax_backward_of_value(y: Tensor, grad: Tensor, tau: float) -> Tensor:
    """`J(y) g / tau` at a softmax y of temperature tau."""
    return _backward(y, grad, tau)


@kernel("(Tensor x, Tensor grad, float tau, float scale) -> Tensor")
@widened
def softmax_backward_of_logits(x: Tensor, grad: Tensor, tau: float, scale: float) -> Tensor:
    """That times `scale`, at `y = softmax(x / tau)`; 0 in rows that hold +infinity."""
    certain = x.amax(-1, keepdim=True).isposinf()
    return _backward(_softmax(x, tau), cast(scale, grad.dtype) * grad, tau).masked_fill(certain, 0)


def _softmax(x: Tensor, tau: Any) -> Tensor:
    # The difference of two infinities would be NaN.
    return tempered(x.masked_fill(x.isposinf(), torch.finfo(x.dtype).max), cast(tau, x.dtype))


def _backward(y: Tensor, grad: Tensor, tau: float) -> Tensor:
    return softmax_jacobian_product(y, relative_to(y.argmax(-1), grad)) / cast(tau, y.dtype)


@rule("softmax")
@dataclass(frozen=True)
class Softmax(Relaxation):
    """The softmax, `soft(x) = softmax(x / tau)`: the relaxation of argmax; k times it, of top-k.

    Its relaxed k-hot has entries above 1 where one score leads; that of `Threshold` has none.
    Entries of +infinity share the whole weight, and the gradient of their row is 0.

    Args:
        tau: temperature, > 0.

    Example:
        >>> st.relaxations.Softmax(tau=0.5).soft(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)

    def soft(self, x: Tensor) -> Tensor:
        return _softmax(x, self.tau)

    @property
    def _overridden(self) -> bool:
        """Whether a subclass has a `soft` or `soft_topk` of its own, which has no kernel."""
        own = ((type(self).soft, Softmax.soft), (type(self).soft_topk, Softmax.soft_topk))
        return any(one is not other for one, other in own)

    def backward(self, x: Tensor, grad: Tensor, k: int = 1) -> Tensor:
        if self._overridden:
            return super().backward(x, grad, k)
        if x.dtype == grad.dtype:
            return softmax_backward_of_logits(x, grad, self.tau, k)
        return in_compute_dtype(softmax_backward_of_logits, x, grad, self.tau, k)

    def forward(self, x: Tensor, tangent: Tensor, k: int = 1) -> Tensor:
        if self._overridden:
            return super().forward(x, tangent, k)
        return self.backward(x, tangent, k)  # the Jacobian is symmetric
