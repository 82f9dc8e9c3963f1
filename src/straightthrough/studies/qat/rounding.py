"""Rules for the rounding of weights, all else the same: as they are, and without their own rates.

Of a rule that multiplies the gradient by a positive factor r(w), the same in every cell, take
`M(w)`, the integral of 1/r. In it a small step of gradient descent on w is one of the plain rule,
at another rate. So the rule, at `stretch` times the rate and from a start that M moves back, should
train as the plain rule does (Schoenbauer et al., "Custom gradient estimators are straight-through
estimators in disguise", 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import straightthrough as st

from ...estimators import GridEstimator
from ...nn.quantizer import Quantizer
from .model import INNER, inner

GRID = st.grids.Int(2)
MOVED = 0.01
"""By how much the start of one network is moved, in steps of the grid, at most."""


@dataclass(frozen=True)
class Variant:
    """A rule for the inner weights, and what it is trained with.

    Attributes:
        rule: of the rounding.
        rate: the factor of the rate of the inner weights.
        start: what the inner weights start from, of where they lie in their cell, in steps.
    """

    rule: GridEstimator
    rate: float = 1.0
    start: Callable[[Tensor], Tensor] = lambda inside: inside


PLAIN = st.estimators.STE()
OTHERS: dict[str, GridEstimator] = {
    "poly": st.estimators.Poly(inside="code"),
    "dge": st.estimators.DGE(),
}
"""Rules whose factor is the same in every cell, with the range of `PLAIN`."""


def variants(descent: bool) -> dict[str, Variant]:
    """Return what is compared, the plain rule first.

    Args:
        descent: whether steps are those of gradient descent. Adam's don't grow with the factor, and
            need no other rate.
    """
    found = {
        "ste": Variant(PLAIN),
        "ste, start moved by 1 %": Variant(PLAIN, start=_moved),
        "ste, 0.8 of the rate": Variant(PLAIN, 0.8),
        **{name: Variant(rule) for name, rule in OTHERS.items()},
    }
    if descent:
        for name, rule in OTHERS.items():
            stretch, start = matched(rule)
            found[f"{name}, its rate"] = Variant(rule, stretch)
            found[f"{name}, its rate and start"] = Variant(rule, stretch, start)
    found["ewgs"] = Variant(st.estimators.EWGS())
    return found


def matched(rule: GridEstimator) -> tuple[float, Callable[[Tensor], Tensor]]:
    """Return the rate and the start with which a rule should train as the plain one."""
    within = torch.linspace(-0.5, 0.5, 4097, dtype=torch.float64, requires_grad=True)
    st.fake_quantize(within, 1.0, grid=st.grids.Int(8), rule=rule).sum().backward()
    assert within.grad is not None
    at, slowness = within.detach(), 1 / within.grad
    integral = torch.cat([at.new_zeros(1), torch.cumulative_trapezoid(slowness, at)]).numpy()
    stretch = float(integral[-1])

    def start(inside: Tensor) -> Tensor:
        moved = np.interp(inside.numpy(), integral / stretch - 0.5, at.numpy())
        return torch.from_numpy(moved).to(inside)

    return stretch, start


def _moved(inside: Tensor) -> Tensor:
    noise = torch.rand(inside.shape, generator=torch.Generator().manual_seed(0))
    return inside + MOVED * (2 * noise - 1)


def prepared(net: nn.Sequential, variant: Variant) -> nn.Sequential:
    """Quantize the inner weights in place, by scales that stay what they start as."""
    scheme = st.nn.Scheme(GRID, st.scales.Learned(axis=0, start="mse"), variant.rule)
    st.nn.prepare(net, [(name, st.nn.Config(scheme)) for name in INNER])
    for weight, quantizer in inner(net):
        assert isinstance(quantizer, Quantizer)
        _start(weight, quantizer, variant)
    return net


@torch.no_grad()
def _start(weight: nn.Parameter, quantizer: Quantizer, variant: Variant) -> None:
    quantizer.start(weight)
    quantizer.requires_grad_(False)
    v = weight / quantizer.scale
    value = GRID.nearest(v)
    # What lies beyond the range gets no gradient, and stays.
    weight.copy_(torch.where(GRID.inside(v), value + variant.start(v - value), v) * quantizer.scale)
