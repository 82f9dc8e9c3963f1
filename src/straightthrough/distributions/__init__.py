"""torch.distributions with hard samples that have a gradient."""

from .bernoulli import Bernoulli
from .categorical import OneHotCategorical

__all__ = ["Bernoulli", "OneHotCategorical"]
