"""What the distributions share: hard samples, and the form that Pyro asks for."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..core.rules import Rule

_Self = TypeVar("_Self", bound="HardSampling")


class HardSampling(Distribution):
    """A discrete distribution whose `rsample` is hard and has an estimator's gradient.

    Once Pyro has been imported, instances are of the subclasses in `pyro.py`, as Pyro asks for
    its own mixin and nothing else will do.
    """

    has_rsample = True
    estimator: Rule
    _of_probs: bool
    __signature__: ClassVar[inspect.Signature]  # what help() shows, in the place of __new__'s

    def __init_subclass__(cls) -> None:
        init: Any = cls.__init__
        cls.__signature__ = inspect.signature(partial(init, None))

    def __new__(cls, *_: Any, **__: Any) -> Any:
        if "pyro" not in sys.modules:
            return super().__new__(cls)
        from .pyro import FORMS

        return super().__new__(FORMS.get(cls, cls))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draw what `rsample` would draw, without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def _keep(self, new: _Self) -> _Self:
        """Hand to an expanded copy what torch does not know of."""
        new.estimator, new._of_probs = self.estimator, self._of_probs
        return new
