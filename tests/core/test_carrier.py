"""Few entries take torch's own node of a copy: as from the Function, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor

import straightthrough as st
from straightthrough.core import engine
from straightthrough.core.errors import FLOATING

OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "round": st.round,
    "floor": st.floor,
    "ceil": st.ceil,
    "trunc": st.trunc,
    "clamp": lambda x: st.clamp(x, -1, 1),
    "straight_through": lambda x: st.straight_through(x.detach() > 0, x),
    "broadcast": lambda x: st.straight_through(torch.ones(4, dtype=x.dtype), x),
    "stochastic_round": lambda x: st.stochastic_round(x, seed=7),
    "through": lambda x: st.through(x, x.detach().sign()),
    "through, laid otherwise": lambda x: st.through(x, x.detach().sign().contiguous()),
    "lfq": lambda x: st.lfq(x)[0],
    "bernoulli": lambda x: st.bernoulli(x, "identity", seed=7),
}


def entries(dtype: torch.dtype = torch.float32) -> Tensor:
    """Return numbers that lie in no order of memory, some of them not finite."""
    x = 3 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    x[0, 0], x[1, 1] = torch.inf, torch.nan
    return x.to(dtype).t().contiguous().t().requires_grad_()


@pytest.fixture
def functions_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(engine, "FEW", -1)


def derivatives(operator: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Return the value, the gradient and the second derivative of the sum of its cubes."""
    x = entries(dtype)
    y = operator(x)
    (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return [y, first, second]


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("name", OPERATORS)
def test_it_is_what_the_function_gives(
    name: str, dtype: torch.dtype, functions_only: Callable[[], None]
) -> None:
    few = derivatives(OPERATORS[name], dtype)
    functions_only()
    many = derivatives(OPERATORS[name], dtype)
    assert few[0].grad_fn is not None
    assert many[0].grad_fn is not None
    assert (few[0].grad_fn.name(), many[0].grad_fn.name()) == ("CloneBackward0", "NodeBackward")
    for one, other in zip(few, many, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    assert few[0].stride() == many[0].stride()


def test_the_gradient_is_nobodys_but_the_inputs() -> None:
    x, grad = entries(), torch.ones(3, 4)
    y = st.round(x)
    y.backward(grad, retain_graph=True)
    y.backward(grad)
    assert torch.equal(grad, torch.ones(3, 4))
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * grad)


def test_more_entries_than_few_take_the_function() -> None:
    sizes = (engine.FEW, engine.FEW + 1)
    values = [st.round(torch.zeros(size, requires_grad=True)) for size in sizes]
    names = [value.grad_fn and value.grad_fn.name() for value in values]
    assert names == ["CloneBackward0", "NodeBackward"]


@pytest.mark.parametrize("given", [st.straight_through, st.through])
def test_a_value_without_a_storage_of_its_own_stays_what_it_is(
    given: Callable[[Tensor, Tensor], Tensor],
) -> None:
    x, ones = torch.zeros(3, requires_grad=True), torch.ones(3)
    pair = TwoTensor(ones, ones)
    y = given(pair, x) if given is st.straight_through else given(x, pair)
    assert type(y) is TwoTensor
    assert (y + 1).a.tolist() == [2.0, 2.0, 2.0]


def test_a_value_on_another_device_stays_there() -> None:
    hard, soft = torch.ones(3, device="meta"), torch.zeros(3, requires_grad=True)
    assert st.straight_through(hard, soft).is_meta


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_who_looks_at_every_operator_sees_the_value(mode: str) -> None:
    x = torch.tensor([0.2, 1.7], requires_grad=True)
    traced = make_fx(lambda x: st.round(x), tracing_mode=mode)(x)
    assert traced(torch.tensor([2.4, 5.6])).tolist() == [2.0, 6.0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_jit_trace_sees_the_value() -> None:
    x = torch.tensor([0.2, 1.7], requires_grad=True)
    traced = torch.jit.trace(lambda x: st.round(x), x, check_trace=False)
    assert traced(torch.tensor([2.4, 5.6])).tolist() == [2.0, 6.0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize(
    "operator",
    [lambda x: st.round(x), lambda x: st.poisson(x, seed=1), lambda x: st.bernoulli(x, seed=1)],
)
def test_jit_trace_has_the_gradient_where_one_was_due(operator: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([0.2, 1.7], requires_grad=True)
    traced = torch.jit.trace(operator, x, check_trace=False)
    (wanted,) = torch.autograd.grad(operator(x).sum(), x)
    assert wanted.abs().max() > 0
    assert torch.equal(torch.autograd.grad(traced(x).sum(), x)[0], wanted)


def test_fake_tensors_stay_fake() -> None:
    with FakeTensorMode() as mode:
        x = mode.from_tensor(torch.zeros(3, requires_grad=True))
        assert type(st.round(x)) is type(x)
    assert type(st.round(x)) is type(x)
