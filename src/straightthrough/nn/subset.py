"""Subset operators as modules."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..core.errors import check_count, check_dim
from ..core.rules import Relaxation
from ..estimators import SubsetEstimator
from ..ops.subset import api
from .base import EstimatorModule, Number, RuleModule
from .checked import Checks


class TopK(RuleModule[Relaxation]):
    """`st.topk` as a module; no noise, so `eval()` changes nothing.

    Args:
        k: how many ones a row has.
        relaxation: a `Relaxation` or its shorthand.
        dim: the dimension of the classes.
        fields: numbers or schedules for the relaxation's fields, as `tau`.

    Example:
        >>> top = st.nn.TopK(2, tau=st.nn.schedules.Cosine(1.0, 0.1, steps=500))
        >>> top(torch.tensor([1.0, 3.0, 2.0]))
        tensor([0., 1., 1.])
    """

    k: int
    dim: int
    numbers: ClassVar[Checks] = {"k": check_count, "dim": check_dim}

    def __init__(
        self, k: int, relaxation: Relaxation | str = "logistic", *, dim: int = -1, **fields: Number
    ) -> None:
        super().__init__("relaxation", relaxation, (Relaxation,), fields)
        self.k, self.dim = k, dim

    @property
    def relaxation(self) -> Relaxation:
        """The rule as it is now; a rule or a shorthand may be assigned, with all its numbers."""
        return self.rule

    @relaxation.setter
    def relaxation(self, given: Relaxation | str) -> None:
        self._give(given, {})

    def forward(self, scores: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if self.training:
            self.observe(scores, self.dim, mask)
        return api.topk(scores, self.k, self.rule, dim=self.dim, mask=mask)

    def extra_repr(self) -> str:
        return f"k={self.k}, {super().extra_repr()}, dim={self.dim}"


class SampleTopK(TopK):
    """`st.sample_topk` as a module; in `eval()` the k-hot of the k likeliest classes.

    Args:
        k: how many ones a row has.
        relaxation: a `Relaxation` or its shorthand.
        dim: the dimension of the classes.
        fields: numbers or schedules for the relaxation's fields, as `tau`.

    Example:
        >>> sample = st.nn.SampleTopK(2, tau=st.nn.schedules.Cosine(1.0, 0.1, steps=500))
        >>> sample(torch.zeros(5)).sum(), sample.eval()(torch.tensor([1.0, 3.0, 2.0]))
        (tensor(2.), tensor([0., 1., 1.]))
    """

    def forward(self, logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if not self.training:
            return super().forward(logits, mask=mask)
        self.observe(logits, self.dim, mask)
        return api.sample_topk(logits, self.k, self.rule, dim=self.dim, mask=mask)


class SampleSubset(EstimatorModule[SubsetEstimator]):
    """`st.sample_subset` as a module; in `eval()` the likeliest subset, the k largest logits.

    Args:
        k: how many ones a row has.
        estimator: a `SubsetEstimator` or its shorthand.
        dim: the dimension of the classes.
        fields: numbers for the estimator's fields, as `steps`.

    Example:
        >>> sample = st.nn.SampleSubset(2, "second_order", steps=2)
        >>> sample(torch.zeros(5)).sum(), sample.eval()(torch.tensor([1.0, 3.0, 2.0]))
        (tensor(2.), tensor([0., 1., 1.]))
    """

    k: int
    dim: int
    numbers: ClassVar[Checks] = {"k": check_count, "dim": check_dim}

    def __init__(
        self,
        k: int,
        estimator: SubsetEstimator | str = "simple",
        *,
        dim: int = -1,
        **fields: Number,
    ) -> None:
        super().__init__(estimator, (SubsetEstimator,), fields)
        self.k, self.dim = k, dim

    def forward(self, logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
        if not self.training:
            return api.topk(logits, self.k, dim=self.dim, mask=mask)
        self.observe(logits, self.dim, mask)
        return api.sample_subset(logits, self.k, self.rule, dim=self.dim, mask=mask)

    def extra_repr(self) -> str:
        return f"k={self.k}, {super().extra_repr()}, dim={self.dim}"
