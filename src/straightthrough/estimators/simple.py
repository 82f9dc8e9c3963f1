"""SIMPLE: the exact covariance of a drawn subset."""

from dataclasses import dataclass

from torch import Tensor

from ..core.engine import apply
from ..core.registry import rule
from .exactly_k import Cumulant
from .subset import SubsetEstimator


@rule("simple")
@dataclass(frozen=True)
class Simple(SubsetEstimator):
    """`C g`, C the covariance of the drawn k-hot: the gradient of its exact marginals.

    It doesn't depend on the outcome but through g, and is unbiased for linear losses. For k = 1 it
    is the straight-through estimator, `J(softmax(logits)) g`.

    Cost: O(C k) work, on a tree that is built again in backward.

    Higher order: differentiates the formula, `g` held: cumulants of the law.

    References:
        Ahmed, Zeng, Niepert, Van den Broeck, "SIMPLE: a gradient estimator for k-subset sampling",
        2023.

    Example:
        >>> rule = st.estimators.Simple()
        >>> rule.vjp(torch.zeros(4), torch.tensor([1.0, 1, 0, 0]), torch.tensor([12.0, 0, 0, 0]))
        tensor([ 3., -1., -1., -1.])
    """

    def gradient(self, logits: Tensor, k: int, value: Tensor, grad: Tensor) -> Tensor:
        moved: Tensor = apply(Cumulant(k), logits, grad)
        return moved
