"""Straight-through estimators: a hard forward bit for bit, a soft backward by any rule."""

from typing import TYPE_CHECKING, Any

from . import distributions, estimators, grids, nn, relaxations, scales, surrogates
from .core.errors import ArgumentError, DtypeError, ShapeError, StraightThroughError, strict
from .core.noise import Seed
from .core.straight_through import straight_through
from .core.wrap import wrap
from .ops.bernoulli.api import (
    bernoulli,
    binary_concrete,
    hard_concrete,
    hard_concrete_mean,
    l0_norm,
)
from .ops.categorical.api import (
    argmax,
    categorical,
    categorical_integer,
    categorical_lookup,
    gumbel_softmax,
)
from .ops.codebook.api import nearest, through, vector_quantize
from .ops.codebook.codes import fsq, fsq_decode
from .ops.codebook.signs import bsq, bsq_decode, lfq, lfq_decode, lfq_entropy
from .ops.counts.api import binomial, geometric, negative_binomial, poisson
from .ops.permutation.api import assignment, permutation, rank, reorder
from .ops.pointwise.api import ceil, clamp, floor, heaviside, round, sign, ternary, trunc
from .ops.quantize.api import fake_quantize, stochastic_quantize, stochastic_round
from .ops.solver.api import solve
from .ops.subset.api import sample_subset, sample_topk, topk
from .ops.subset.law import subset_entropy, subset_log_prob, subset_marginals

if TYPE_CHECKING:
    from . import audit

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "DtypeError",
    "Seed",
    "ShapeError",
    "StraightThroughError",
    "argmax",
    "assignment",
    "audit",
    "bernoulli",
    "binary_concrete",
    "binomial",
    "bsq",
    "bsq_decode",
    "categorical",
    "categorical_integer",
    "categorical_lookup",
    "ceil",
    "clamp",
    "distributions",
    "estimators",
    "fake_quantize",
    "floor",
    "fsq",
    "fsq_decode",
    "geometric",
    "grids",
    "gumbel_softmax",
    "hard_concrete",
    "hard_concrete_mean",
    "heaviside",
    "l0_norm",
    "lfq",
    "lfq_decode",
    "lfq_entropy",
    "nearest",
    "negative_binomial",
    "nn",
    "permutation",
    "poisson",
    "rank",
    "relaxations",
    "reorder",
    "round",
    "sample_subset",
    "sample_topk",
    "scales",
    "sign",
    "solve",
    "stochastic_quantize",
    "stochastic_round",
    "straight_through",
    "strict",
    "subset_entropy",
    "subset_log_prob",
    "subset_marginals",
    "surrogates",
    "ternary",
    "through",
    "topk",
    "trunc",
    "vector_quantize",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name == "audit":  # when it is first asked for: a tenth of the import's time
        import straightthrough.audit

        return straightthrough.audit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
