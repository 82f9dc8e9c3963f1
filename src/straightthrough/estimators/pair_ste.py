"""Rules that pass the gradient of a pair on as it is."""

from dataclasses import dataclass

from torch import Tensor

from ..core.registry import rule
from ..core.rules import Saved, saves
from .pair import PairEstimator


@rule("pair_ste", shorthand="ste")
@dataclass(frozen=True)
class PairSTE(PairEstimator):
    """The gradient passes to z unchanged; q gets none.

    The gradient of q, or of a codebook, stays None, as if it was detached. A codebook under it
    learns from a loss of its own or by moving averages.

    Cost: nothing is computed, and nothing saved.

    Higher order: linear in `g`, so that the second derivative is 0.

    References:
        Van den Oord, Vinyals, Kavukcuoglu, "Neural discrete representation learning", 2017.

    Example:
        >>> rule = st.estimators.PairSTE()
        >>> rule.vjp(torch.zeros(2), torch.ones(2), torch.tensor([3.0, 4.0]))
        (tensor([3., 4.]), tensor([0., 0.]))
    """

    @saves(Saved.NOTHING)
    def gradient(self, z: Tensor, q: Tensor, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None

    def tangent(self, z: Tensor, q: Tensor, to_z: Tensor, to_q: Tensor) -> Tensor:
        return to_z


@rule("both")
@dataclass(frozen=True)
class Both(PairEstimator):
    """The gradient passes unchanged to z and to q: a codebook learns from the decoder as well.

    Cost: nothing is computed, and nothing saved.

    Higher order: linear in `g`, so that the second derivative is 0.

    Example:
        >>> rule = st.estimators.Both()
        >>> rule.vjp(torch.zeros(2), torch.ones(2), torch.tensor([3.0, 4.0]))
        (tensor([3., 4.]), tensor([3., 4.]))
    """

    @saves(Saved.NOTHING)
    def gradient(self, z: Tensor, q: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad

    def tangent(self, z: Tensor, q: Tensor, to_z: Tensor, to_q: Tensor) -> Tensor:
        return to_z + to_q
