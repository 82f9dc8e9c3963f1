"""What the distributions share: hard samples."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.distributions import Distribution

from ..core.errors import check_range
from ..core.internals import held
from ..core.rules import Rule

_Self = TypeVar("_Self", bound="HardSampling")


class HardSampling(Distribution):
    """A discrete distribution whose `rsample` is hard and has an estimator's gradient."""

    has_rsample = True
    estimator: Rule
    _of_probs: bool

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw what `rsample` would draw, without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def _check_probs(self, probs: Any, most: float, validate_args: bool | None) -> None:
        """Raise if a probability lies outside [0, most]; what else is validated, torch does."""
        validated = self._validate_args if validate_args is None else validate_args
        if probs is not None and validated and not is_compiling():
            given = held(probs) if isinstance(probs, Tensor) else torch.as_tensor(probs)
            check_range("probs", given, most, ", or pass logits=")

    def _keep(self, new: _Self) -> _Self:
        """Hand to an expanded copy what torch does not know of."""
        new.estimator, new._of_probs = self.estimator, self._of_probs
        return new


def of_probs(distribution: Any) -> bool:
    """Whether a distribution, ours or torch's, was given probabilities.

    Else its logits say what is impossible: a probability of theirs may be rounded to 0.
    """
    if isinstance(distribution, HardSampling):
        return distribution._of_probs
    return distribution._param is not distribution.logits


def largest_of(dtype: torch.dtype) -> float:
    """Return what stands for infinity where it is multiplied by 0, and that by what is finite."""
    return math.sqrt(torch.finfo(dtype).max)
