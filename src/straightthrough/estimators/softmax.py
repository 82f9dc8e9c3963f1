"""The softmax, the relaxation of deterministic selections."""

from dataclasses import dataclass

from torch import Tensor

from ..core.errors import check_positive
from ..core.registry import rule
from ..core.rules import Relaxation, compute_dtype
from .base import softmax_vjp, tempered


@rule("softmax")
@dataclass(frozen=True)
class Softmax(Relaxation):
    """The softmax, `soft(x) = softmax(x / tau)`: the relaxation of argmax, and of top-k.

    Args:
        tau: temperature, > 0.

    Example:
        >>> st.estimators.Softmax(tau=0.5).soft(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)

    def soft(self, x: Tensor) -> Tensor:
        return tempered(x, self.tau)

    def vjp(self, x: Tensor, grad: Tensor) -> Tensor:
        wide = compute_dtype(x.dtype)
        p = self.soft(x.to(wide))
        return (softmax_vjp(p, grad.to(wide)) / self.tau).to(x.dtype)

    def jvp(self, x: Tensor, tangent: Tensor) -> Tensor:
        return self.vjp(x, tangent)  # the Jacobian is symmetric
