"""ReinMax-CV: ReinMax plus a control variate out of Gumbels."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core.errors import check_count, check_number, check_positive
from ..core.noise import Noise
from ..core.registry import rule
from .categorical import CategoricalEstimator
from .gumbel import binary_gumbel_st, gumbel_st
from .reinmax import binary_reinmax, reinmax
from .reinmax_rao import binary_midpoint, midpoint


@rule("reinmax_cv")
@dataclass(frozen=True)
class ReinMaxCV(CategoricalEstimator):
    """`ReinMax() + eta (1/K sum_k J(y_k) - J(y_0)) g / tau`, y_k as in `ReinMaxRao`, k = 1..K.

    `y_k = softmax((theta_D + G_k) / tau)`, `theta_D = log((p + D) / 2)`, the Gumbels `G_k` given
    the outcome; y_0 is one more of them, K = `samples`. Given the outcome the added term has mean
    0, so the mean is that of `ReinMax()`. But `ReinMax()` is a constant given the outcome, so the
    term cancels nothing: it adds `eta^2 (1 + 1/K)` times the variance, given the outcome, of one
    `J(y_k) g / tau`. A rule to compare with; `eta = 0` is `ReinMax()`.

    Args:
        tau: temperature of the y_k, > 0.
        eta: weight of the control variate, a number.
        samples: K, an int of at least 1.

    Cost: K + 2 exponentials a class and one softmax; the draws are summed one by one, so memory
    is that of one. A double backward keeps all.

    Higher order: differentiates the formula, `g`, the outcome and the Gumbels held.

    References:
        Wang, Bui, "Beyond ReinMax: low-variance gradient estimators for discrete latent
        variables", 2026.

    Example:
        >>> rule = st.estimators.ReinMaxCV(eta=0.5)
        >>> rule.vjp(torch.zeros(3), torch.tensor(0), torch.tensor([1.0, 0.0, 0.0]), seed=0).shape
        torch.Size([3])
    """

    tau: float = 0.7
    eta: float = 1.5
    samples: int = 32
    draws_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("tau", self.tau)
        check_number("eta", self.eta)
        check_count("samples", self.samples)

    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        middle, counts = midpoint(logits, index), (self.samples + 1, 1)
        draws = (gumbel_st(middle, index, grad, self.tau, n, noise) for n in counts)
        return reinmax(logits, index, grad, 1.0) + self._contrast(*draws)

    def binary_gradient(self, x: Tensor, outcome: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        middle, counts = binary_midpoint(x, outcome), (self.samples + 1, 1)
        draws = (binary_gumbel_st(middle, outcome, grad, self.tau, n, noise) for n in counts)
        return binary_reinmax(x, outcome, grad, 1.0) + self._contrast(*draws)

    def _contrast(self, mean: Tensor, first: Tensor) -> Tensor:
        """Return eta times the mean of the last K draws less the first; `mean` is that of all."""
        return self.eta * (1 + 1 / self.samples) * (mean - first)
