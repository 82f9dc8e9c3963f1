"""What a monitor reads off an operator.

Tensors are looked at as `(N, U, C)`: N examples, U units of an example, C classes of a unit. A unit
is a row of classes or, with C = 1, an element. A parameter is one example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import cast

import torch
from torch import Tensor, nn

from ...core.precision import compute_dtype
from ...nn.bernoulli import Bernoulli, BinaryConcrete, HardConcreteGate
from ...nn.categorical import (
    Argmax,
    Categorical,
    CategoricalInteger,
    CategoricalLookup,
    GumbelSoftmax,
)
from ...nn.codes import FSQ, LFQ
from ...nn.counts import Count
from ...nn.pointwise import Clamp, Pointwise, Sign
from ...nn.quantizer import Quantizer
from ...nn.quantizers import GroupedVQ, ResidualVQ, VectorQuantizer
from ...nn.router import TopKRouter
from ...nn.solver import Solve
from ...nn.subset import SampleSubset, TopK
from ...ops.subset.law import subset_entropy


def _own_dim(module: nn.Module) -> int:
    return cast(int, module.dim)


@dataclass(frozen=True)
class Kind:
    """What is read off the operators of one kind, besides their gradients.

    Attributes:
        outcome: the hard outcome, out of the module and its output; None if there is none.
        zeros: whether the share of zeros is worth a look.
        entropy: of what is drawn from, out of the module, logits or probabilities, whether it is
            the latter, and the temperature of the draw; None if nothing is drawn, or none known.
        counts: for rows of classes, how often each was the outcome, out of the module, that, and
            the number of classes.
        output_dim: for rows of classes, where the output has what a row became, out of the module;
            None if a row became an element.
        rows: whether vectors come in last, and codes go out beside their numbers.
        codes: whether the outcome is the code of the input, whose value may move with a scale.
    """

    outcome: Callable[[nn.Module, Tensor], Tensor] | None = None
    zeros: bool = False
    entropy: Callable[[nn.Module, Tensor, bool, float], Tensor] | None = None
    counts: Callable[[nn.Module, Tensor, int], Tensor] | None = None
    output_dim: Callable[[nn.Module], int | None] = _own_dim
    rows: bool = False
    codes: bool = False


def _value(module: nn.Module, y: Tensor) -> Tensor:
    return y


def _open(module: nn.Module, y: Tensor) -> Tensor:
    return y != 0


def _likelier(module: nn.Module, y: Tensor) -> Tensor:
    return y > 0.5


def _largest(module: nn.Module, y: Tensor) -> Tensor:
    return y == y.amax(-1, keepdim=True)


def _row_of_table(module: nn.Module, y: Tensor) -> Tensor:
    """Return which row of the module's table each row of `y` is, the first of equal ones."""
    table = cast(Tensor, module.table).detach()
    rows, classes = torch.cat([table, y.flatten(0, 1)]), len(table)
    group = torch.unique(rows, dim=0, return_inverse=True)[1]
    number = torch.arange(classes, device=y.device)
    first = torch.full_like(group, classes).scatter_reduce(0, group[:classes], number, "amin")
    return first[group[classes:]].reshape(*y.shape[:-1], 1)


def _chosen(module: nn.Module, outcome: Tensor, classes: int) -> Tensor:
    return outcome.sum((0, 1))


def _numbered(module: nn.Module, outcome: Tensor, classes: int) -> Tensor:
    return torch.bincount(outcome[outcome.isfinite()].long(), minlength=classes)


def _looked_up(module: nn.Module, outcome: Tensor, classes: int) -> Tensor:
    return torch.bincount(outcome.flatten(), minlength=classes + 1)[:classes]


def binary_entropy(module: nn.Module, x: Tensor, of_probs: bool, tau: float) -> Tensor:
    """Return the mean entropy in nats of binary draws with logits or probabilities `x`."""
    wide = x.to(compute_dtype(x.dtype))
    if of_probs and tau == 1:
        p = wide
    else:
        p = torch.sigmoid((torch.logit(wide) if of_probs else wide) / tau)
    return (torch.special.entr(p) + torch.special.entr(1 - p)).mean()


def row_entropy(module: nn.Module, logits: Tensor, of_probs: bool, tau: float) -> Tensor:
    """Return the mean entropy in nats of the rows of `logits`."""
    p = (logits.to(compute_dtype(logits.dtype)) / tau).softmax(-1)
    return torch.special.entr(p).sum(-1).mean()


def subset_row_entropy(module: nn.Module, logits: Tensor, of_probs: bool, tau: float) -> Tensor:
    """Return the mean entropy in nats of the subsets drawn from the rows of `logits`."""
    wide = logits.to(compute_dtype(logits.dtype))
    return subset_entropy(wide, cast(int, module.k)).mean()


KINDS: dict[type[nn.Module], Kind] = {
    Pointwise: Kind(_value, zeros=True),
    Sign: Kind(_value),
    Clamp: Kind(),
    Quantizer: Kind(_value, zeros=True, codes=True),
    Bernoulli: Kind(_value, True, binary_entropy),
    BinaryConcrete: Kind(_likelier, True, binary_entropy),
    HardConcreteGate: Kind(_open, True, binary_entropy),
    Categorical: Kind(_largest, False, row_entropy, _chosen),
    GumbelSoftmax: Kind(_largest, False, row_entropy, _chosen),
    CategoricalInteger: Kind(_value, False, row_entropy, _numbered, lambda module: None),
    CategoricalLookup: Kind(_row_of_table, False, row_entropy, _looked_up, lambda module: -1),
    Count: Kind(_value, zeros=True),
    Argmax: Kind(_largest, counts=_chosen),
    TopK: Kind(_largest, counts=_chosen),
    SampleSubset: Kind(_largest, False, subset_row_entropy, _chosen),
    TopKRouter: Kind(_open, counts=_chosen),
    Solve: Kind(_value, zeros=True),
    **dict.fromkeys((VectorQuantizer, ResidualVQ, GroupedVQ, FSQ, LFQ), Kind(rows=True)),
}
"""Of each class of modules, and of its subclasses that have no entry of their own."""


def kind_of(module: nn.Module) -> Kind | None:
    """Return what is read off a module; None if it is no operator."""
    return next((KINDS[cls] for cls in type(module).__mro__ if cls in KINDS), None)


def examples(tensor: Tensor, dim: int | None, shared: bool) -> Tensor:
    """Return a tensor as `(N, U, C)`: its classes along `dim`, one example if `shared`."""
    units = tensor.detach().unsqueeze(-1) if dim is None else tensor.detach().movedim(dim, -1)
    count = 1 if shared or units.ndim == 1 else len(units)
    return units.reshape(count, -1, units.shape[-1])


def sample(tensor: Tensor, size: int) -> Tensor:
    """Return about `size` units of `(N, U, C)`, the same of each example.

    Which ones depends on N and U alone. Examples go first, as averages over them want many.
    """
    tensor = tensor[:size]
    kept = max(1, size // len(tensor))
    if kept >= tensor.shape[1]:
        return tensor
    return tensor.index_select(1, places(tensor.shape[1], kept, tensor.device))


@lru_cache(maxsize=64)
def places(count: int, size: int, device: torch.device) -> Tensor:
    """Return `size` numbers below `count`, the same ones always, from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(count, (size,), generator=generator, device="cpu")
    return drawn.sort().values.to(device)


def usage(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of classes that occurred, and the exponential of their entropy."""
    share = counts / counts.sum()
    return (counts > 0).float().mean(), torch.special.entr(share).sum().exp()


def code_usage(index: Tensor, codes: int) -> dict[str, float]:
    """Return what the numbers `(N, T)` of T codebooks say of them; rows that hold -1 don't count.

    Use and perplexity are means over the codebooks.
    """
    index = index[(index >= 0).all(-1)]
    if not len(index):
        return {}
    uses, perplexities = [], []
    for column in index.unbind(-1):
        share = column.unique(return_counts=True)[1] / len(column)
        uses.append(len(share) / codes)
        perplexities.append(float(torch.special.entr(share).sum().exp()))
    ids = len(index.unique(dim=0))
    return {
        "code_use": fmean(uses),
        "perplexity": fmean(perplexities),
        "unique_ids": ids,
        "collision_rate": 1 - ids / len(index),
    }


def flip_rate(before: Tensor, now: Tensor) -> Tensor:
    """Return the share of units whose outcome has changed."""
    return (before != now).any(-1).float().mean()


def saturation(live: Tensor, outgoing: Tensor) -> Tensor:
    """Return the share of the `live` units, `(N, U)`, whose outgoing gradient is all 0."""
    return (live & (outgoing == 0).all(-1)).sum() / live.sum()


def signal_to_noise(gradient: Tensor) -> Tensor:
    """Return `|mean| / std` over the examples, the gradient of an example as one vector."""
    vectors = gradient.flatten(1).to(compute_dtype(gradient.dtype))
    variance, mean = torch.var_mean(vectors, 0)
    return mean.norm() / variance.sum().sqrt()
