"""The straight-through estimator with a temperature for each direction."""

from dataclasses import dataclass

from torch import Tensor

from ..core.errors import check_positive
from ..core.noise import Noise
from ..core.registry import rule
from .categorical import CategoricalEstimator, takes_half
from .straight_through import binary_straight_through, straight_through


@rule("decoupled")
@dataclass(frozen=True)
class DecoupledST(CategoricalEstimator):
    """`J(p_b) g / tau_backward`, `p_b = softmax(logits / tau_backward)`, drawn at `tau_forward`.

    Forward draws from `softmax(logits / tau_forward)`, which is also the law that the expected
    loss is taken under, in training and in `st.audit.compare`. With `tau_forward = 1` it is
    `StraightThrough(tau_backward)`.

    Args:
        tau_forward: temperature of the draw, > 0; below 1 the likelier classes come more often.
        tau_backward: temperature of the gradient, > 0.

    Cost: one softmax; no noise. Where `tau_forward` is not 1, forward divides the logits first.

    Higher order: differentiates the formula, `g` and the outcome held.

    References:
        Shah, Yan, Mozer, Liu, "Improving discrete optimisation via decoupled straight-through
        estimator", 2024.

    Example:
        >>> rule = st.estimators.DecoupledST(tau_forward=0.01, tau_backward=2.0)
        >>> logits = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> z = st.categorical(logits, rule, seed=0)
        >>> z.detach()
        tensor([0., 1.])
        >>> z[0].backward()
        >>> logits.grad
        tensor([ 0.1175, -0.1175])
    """

    tau_forward: float = 1.0
    tau_backward: float = 1.0

    def __post_init__(self) -> None:
        check_positive("tau_forward", self.tau_forward)
        check_positive("tau_backward", self.tau_backward)

    @takes_half
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return straight_through(logits, index, grad, self.tau_backward)

    @takes_half
    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return binary_straight_through(x, outcome, grad, self.tau_backward)
