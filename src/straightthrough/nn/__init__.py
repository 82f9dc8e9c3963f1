"""Operators as modules, deterministic in `eval()`, and schedules for their rules.

A new value of a schedule is a new constant to `torch.compile`, which compiles once more for it
and stops doing so after `torch._dynamo.config.recompile_limit` (8) values. With compiled models
step once an epoch, or raise that limit to the number of values.
"""

from . import schedules
from .bernoulli import Bernoulli, BinaryConcrete, HardConcreteGate
from .categorical import (
    Argmax,
    Categorical,
    CategoricalInteger,
    CategoricalLookup,
    GumbelSoftmax,
)
from .counts import Binomial, Geometric, NegativeBinomial, Poisson
from .pointwise import Ceil, Clamp, Floor, Heaviside, Round, Sign, Ternary, Trunc
from .schedules import step_schedules
from .subset import TopK

__all__ = [
    "Argmax",
    "Bernoulli",
    "BinaryConcrete",
    "Binomial",
    "Categorical",
    "CategoricalInteger",
    "CategoricalLookup",
    "Ceil",
    "Clamp",
    "Floor",
    "Geometric",
    "GumbelSoftmax",
    "HardConcreteGate",
    "Heaviside",
    "NegativeBinomial",
    "Poisson",
    "Round",
    "Sign",
    "Ternary",
    "TopK",
    "Trunc",
    "schedules",
    "step_schedules",
]
