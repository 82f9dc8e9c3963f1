"""A rule that draws noise in backward says so; of one that does not, no seed is saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core.errors import StraightThroughError
from straightthrough.core.noise import Noise
from straightthrough.estimators import CategoricalEstimator
from straightthrough.estimators.solver import SolverEstimator
from straightthrough.surrogates import Clipped, Derivative, Identity, Sigmoid
from straightthrough.testing.values import saved_tensors

TABLE = torch.randn(5, 3)


@dataclass(frozen=True)
class Silent(CategoricalEstimator):
    """The gradient times noise, without a word of it."""

    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        rows = grad.reshape(-1, grad.shape[-1])
        return grad * noise.classes(*rows.shape, grad.dtype).reshape(grad.shape)


@dataclass(frozen=True)
class Declared(Silent):
    draws_noise: ClassVar[bool] = True


@dataclass(frozen=True)
class Shaken(SolverEstimator):
    def point(self, theta: Tensor, noise: Noise) -> Tensor:
        return theta + noise.classes(*theta.shape, theta.dtype)

    def gradient(
        self, theta: Tensor, z: Tensor, grad: Tensor, solve: Callable[..., Tensor], noise: Noise
    ) -> Tensor:
        return grad


DRAWS: dict[str, Callable[[Tensor, CategoricalEstimator | str], Tensor]] = {
    "categorical": lambda x, rule: st.categorical(x, rule, seed=3),
    "categorical_integer": lambda x, rule: st.categorical_integer(x, rule, seed=3),
    "categorical_lookup": lambda x, rule: st.categorical_lookup(x, TABLE, rule, seed=3),
    "bernoulli": lambda x, rule: st.bernoulli(x, rule, seed=3),
}
NAMED = pytest.mark.parametrize("name", DRAWS)


@NAMED
def test_noise_that_was_not_declared_raises(name: str) -> None:
    x = torch.randn(4, 5, requires_grad=True)
    with pytest.raises(StraightThroughError, match="draws_noise = True in its class"):
        DRAWS[name](x, Silent()).sum().backward()
    DRAWS[name](x, Declared()).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_vjp_and_solvers_raise_too() -> None:
    x, index = torch.randn(4, 5), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(StraightThroughError, match="draws_noise"):
        Silent().vjp(x, index, x, seed=0)
    assert Declared().vjp(x, index, x, seed=0).shape == x.shape
    with pytest.raises(StraightThroughError, match="asks for noise and does not say"):  # forward
        st.solve(torch.sign, x, Shaken())


@NAMED
@pytest.mark.parametrize("rule", ["reinmax", "gumbel"])
def test_a_seed_is_saved_where_noise_is_drawn(name: str, rule: str) -> None:
    x = torch.randn(4, 5, requires_grad=True)
    with saved_tensors() as saved:
        DRAWS[name](x, rule)
    assert [() in [tuple(each.shape) for each in saved]] == [rule == "gumbel"]


@pytest.mark.parametrize(("rule", "kept"), [(Identity(), 0), (Clipped(), 1), (Sigmoid(), 1)])
@pytest.mark.parametrize("size", [4, 2**15])
def test_a_binary_draw_saves_what_its_surrogate_needs(
    rule: Derivative, kept: int, size: int
) -> None:
    x = torch.randn(size, requires_grad=True)
    with saved_tensors() as saved:
        y = st.bernoulli(x, rule)
    assert len(saved) == kept
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, rule.derivative(x.detach()))
