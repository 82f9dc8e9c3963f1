"""Operators as modules, deterministic in `eval()`, and schedules for their rules.

A schedule's position and a rule's number that is a 0-d tensor are arguments to a compiled or
exported graph, so a temperature may change at every step. A Python number is a constant there; one
that changes is compiled once more, and is an argument from then on.
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
