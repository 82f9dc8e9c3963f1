"""Transforms inside transforms: compiled gradients, dual numbers, numbers that change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor

import straightthrough as st

Function = Callable[[Tensor], Tensor]

OPERATORS: dict[str, Function] = {
    "sign": lambda x: st.sign(x, surrogate="tanh"),
    "argmax": st.argmax,
    "topk": lambda x: st.topk(x, 2, tau=0.7),
    "categorical": lambda x: st.categorical(x, seed=2),
    "gumbel_softmax": lambda x: st.gumbel_softmax(x, 0.7, seed=2),
    "bernoulli": lambda x: st.bernoulli(x, seed=2),
    "wrap": st.wrap(torch.sign, torch.tanh),
}
FORWARD_MODE = ["sign", "argmax", "topk", "gumbel_softmax", "wrap"]


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def example() -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", FORWARD_MODE)
def test_dual_numbers(name: str) -> None:
    x, tangent = example().double(), example().double().cos()
    jacobian = torch.autograd.functional.jacobian(OPERATORS[name], x)
    with fwd.dual_level():
        moved = fwd.unpack_dual(OPERATORS[name](fwd.make_dual(x, tangent))).tangent
    assert moved.abs().max() > 0.01
    torch.testing.assert_close(moved, torch.einsum("abij,ij->ab", jacobian, tangent))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, tau: st.argmax(x, tau=tau),
        lambda x, tau: st.gumbel_softmax(x, tau, hard=True, seed=1),
        lambda x, tau: st.gumbel_softmax(x, tau, seed=1),
        lambda x, tau: st.hard_concrete(x, tau=tau, seed=1),
        lambda x, tau: st.sign(x, surrogate=st.surrogates.Tanh(tau)),
    ],
)
def test_a_temperature_that_changes_under_compile(function: Callable[..., Tensor]) -> None:
    weight, anneal = torch.arange(5.0), compiled(function)
    for tau in (1.0, 0.9, 0.8, 0.7):
        ours, theirs = example().requires_grad_(), example().requires_grad_()
        (anneal(ours, tau) * weight).sum().backward()
        (function(theirs, tau) * weight).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(st.DtypeError, match=r"mask must be a bool tensor .* got list"):
        st.categorical(torch.zeros(2), mask=[True, False])  # type: ignore[arg-type]  # on purpose
    with pytest.raises(st.ArgumentError, match=r"generator must be a torch\.Generator, got 5"):
        st.categorical(torch.zeros(2), generator=5)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("name", OPERATORS)
def test_a_tensor_that_outlived_its_transform(name: str) -> None:
    weight, leaked = example().requires_grad_(), []

    def leak(x: Tensor) -> Tensor:
        leaked.append(2 * weight)
        return x.sum()

    torch.func.grad(leak)(torch.zeros(1))
    (got,) = torch.autograd.grad(OPERATORS[name](leaked[0])[..., 0].sum(), weight)
    (wanted,) = torch.autograd.grad(OPERATORS[name](2 * weight)[..., 0].sum(), weight)
    assert wanted.abs().max() > 0.01
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", ["argmax", "topk", "gumbel_softmax"])
def test_backward_under_saved_tensor_hooks(name: str) -> None:
    x = example().requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        (wanted,) = torch.autograd.grad(OPERATORS[name](x)[..., 0].sum(), x)
    (plain,) = torch.autograd.grad(OPERATORS[name](x)[..., 0].sum(), x)
    assert plain.abs().max() > 0.01
    assert torch.equal(wanted, plain)
