"""Gumbel-Rao: straight-through Gumbel-softmax, averaged over its noise."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core.errors import check_count, check_positive
from ..core.noise import Noise
from ..core.registry import rule
from .categorical import CategoricalEstimator, takes_half
from .gumbel import binary_gumbel_st, gumbel_st


@rule("gumbel_rao")
@dataclass(frozen=True)
class GumbelRao(CategoricalEstimator):
    """The mean of `GumbelST` over draws of its Gumbels: `1/K sum_k J(y_k) g / tau`.

    `y_k = softmax((logits + G_k) / tau)`, the K = `samples` Gumbels drawn given that their argmax
    is the outcome. The bias is that of `GumbelST`; the variance falls towards that over the
    outcome alone as K grows.

    Args:
        tau: temperature, > 0; lower is less biased and noisier (0.1 to 1 used).
        samples: K, an int of at least 1 (10 to 1000 used).

    Cost: K exponentials a class; the draws are summed one by one, so memory is that of one. A
    double backward keeps all K.

    Higher order: differentiates the formula, `g`, the outcome and the Gumbels held.

    References:
        Paulus, Maddison, Krause, "Rao-Blackwellizing the straight-through Gumbel-softmax
        gradient estimator", 2021 (GR-MCK).

    Example:
        >>> rule = st.estimators.GumbelRao(tau=0.5, samples=100)
        >>> rule.vjp(torch.zeros(3), torch.tensor(0), torch.tensor([1.0, 0.0, 0.0]), seed=0).shape
        torch.Size([3])
    """

    tau: float = 1.0
    samples: int = 10
    draws_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)
        check_count("samples", self.samples)

    @takes_half
    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return gumbel_st(logits, index, grad, self.tau, self.samples, noise)

    @takes_half
    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return binary_gumbel_st(x, outcome, grad, self.tau, self.samples, noise)
