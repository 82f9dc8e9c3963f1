"""The distributions as sites of Pyro: `import straightthrough.pyro`.

z = pyro.sample("z", straightthrough.pyro.OneHotCategorical(logits=logits))
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.distributions import Distribution

from . import distributions

try:
    from pyro import distributions as theirs
    from pyro.distributions.score_parts import ScoreParts
    from pyro.distributions.torch_distribution import TorchDistributionMixin
except ModuleNotFoundError as error:
    raise ImportError("straightthrough.pyro needs Pyro; pip install pyro-ppl") from error

__all__ = ["Bernoulli", "OneHotCategorical"]

_enumerated: WeakSet[torch.UntypedStorage] = WeakSet()
"""What supports lie in: their views, one value among them, share it."""


class _Site(TorchDistributionMixin):
    """A draw has its estimator's gradient, and an enumerated value has a weight instead.

    Pyro asks a distribution with an `rsample` for neither weight nor score of a value, which is
    right for a draw alone.
    """

    def enumerate_support(self, expand: bool = True) -> Tensor:
        support: Tensor = super().enumerate_support(expand)
        _enumerated.add(support.untyped_storage())
        return support

    def mask(self, mask: Tensor | bool) -> Distribution:
        """Mask by a bool or a tensor of bools; Pyro asks for the weight under a tensor only."""
        every = torch.tensor(True, device=self.logits.device)
        masked: Distribution = super().mask(every if mask is True else mask)
        return masked

    def score_parts(self, x: Tensor, *args: Any, **kwargs: Any) -> ScoreParts:
        if x.untyped_storage() not in _enumerated:
            return super().score_parts(x, *args, **kwargs)
        log_prob = self.log_prob(x, *args, **kwargs)
        return ScoreParts(log_prob, log_prob, 0)  # type: ignore[arg-type]  # Pyro's own 0 for none


class OneHotCategorical(_Site, distributions.OneHotCategorical, theirs.OneHotCategorical):  # type: ignore[misc]  # Pyro's is not typed
    """`st.distributions.OneHotCategorical` with what a Pyro site calls."""


class Bernoulli(_Site, distributions.Bernoulli, theirs.Bernoulli):  # type: ignore[misc]  # Pyro's is not typed
    """`st.distributions.Bernoulli` with what a Pyro site calls."""
