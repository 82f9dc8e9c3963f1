"""wrap: what a soft function may hold, several values, and the state that it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import straightthrough as st


class OldStyle(torch.autograd.Function):
    """A Function with `ctx` in its forward, which no transform of `torch.func` takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x**2


def wants_grad(x: Tensor) -> Tensor:
    y = (2 * x.detach()).requires_grad_()
    (inner,) = torch.autograd.grad(y.square().sum(), y)  # 4 x
    return x * inner


SOFT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "old style": (OldStyle.apply, lambda x: x**2),
    "checkpoint": (
        lambda x: checkpoint(torch.tanh, x, use_reentrant=False),
        lambda x: 1 - x.tanh() ** 2,
    ),
    "requires_grad_": (lambda x: x.requires_grad_() * 3, lambda x: torch.full_like(x, 3)),
    "a gradient inside": (wants_grad, lambda x: 4 * x),
    "hook": (lambda x: hooked(x), lambda x: torch.full_like(x, 10)),
}


def hooked(x: Tensor) -> Tensor:
    y = 2 * x
    y.register_hook(lambda grad: 5 * grad)
    return y


@pytest.mark.parametrize("name", SOFT)
def test_soft_is_ordinary_autograd(name: str) -> None:
    soft, derivative = SOFT[name]
    x = torch.tensor([0.5, -2.0], requires_grad=True)
    y = st.wrap(torch.sign, soft)(x)
    assert y.tolist() == [1, -1]
    (first,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    torch.testing.assert_close(first, derivative(x.detach()))
    assert not first.requires_grad
    (again,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(again.detach(), first)


def test_surrogates_of_snntorch() -> None:
    surrogate = pytest.importorskip("snntorch.surrogate")
    x = torch.tensor([0.5, -2.0], requires_grad=True)
    for make in (surrogate.atan, surrogate.fast_sigmoid, surrogate.sigmoid):
        spike = make()
        (ours,) = torch.autograd.grad(st.wrap(lambda x: x > 0, spike)(x).sum(), x)
        (theirs,) = torch.autograd.grad(spike(x).sum(), x)
        assert torch.equal(ours, theirs)


def test_running_statistics_move_once_a_step() -> None:
    norm, alone = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    operator = st.wrap(torch.sign, lambda x: torch.tanh(norm(x)))
    for _ in range(3):
        x = torch.randn(8, 3, requires_grad=True)
        y = operator(x)
        assert norm.num_batches_tracked == alone.num_batches_tracked  # soft waits for backward
        y.sum().backward()
        twin = x.detach().clone().requires_grad_()
        torch.tanh(alone(twin)).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, twin.grad)
        torch.testing.assert_close(norm.state_dict(), alone.state_dict())
    assert norm.num_batches_tracked == 3
    assert norm.weight.grad is None  # closed over
    with torch.no_grad():
        operator(torch.randn(8, 3))
    assert norm.num_batches_tracked == 3


def test_what_is_closed_over_gets_no_gradient_and_what_is_passed_does() -> None:
    w, x = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    st.wrap(torch.sign, lambda x: x * w)(x).backward()
    assert (x.grad, w.grad) == (torch.tensor(3.0), None)
    unused = torch.tensor(1.0, requires_grad=True)
    y = st.wrap(lambda x, w, u: x.sign(), lambda x, w, u: x * w)(x, w, unused)
    assert [g.item() for g in torch.autograd.grad(y, (x, w, unused))] == [3.0, 2.0, 0.0]
    flat = st.wrap(torch.sign, torch.zeros_like)(x)
    assert torch.autograd.grad(flat, x)[0] == 0


def test_a_network_whose_parameters_are_passed_in_learns_alike_in_compiled_code() -> None:
    net = nn.Linear(3, 3)

    def soft(x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, parameters, (x,)).tanh()

    operator = st.wrap(lambda x, _: x.sign(), soft)
    x, found = torch.randn(4, 3), []
    for call in (operator, torch.compile(operator, fullgraph=True, backend="aot_eager")):
        net.zero_grad()
        call(x, dict(net.named_parameters())).square().sum().backward()
        found.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*found)
    assert all(gradient.abs().sum() > 0 for gradient in found[0])


class Pair(NamedTuple):
    high: Tensor
    low: Tensor


def hard_pair(x: Tensor) -> Pair:
    return Pair(x > 1, x.floor())


def soft_pair(x: Tensor) -> Pair:
    return Pair(torch.sigmoid(x), x**2)


def expected(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s) + 3 * 2 * x


@pytest.mark.parametrize("structure", [lambda p: p, tuple, list, lambda p: p._asdict()])
def test_several_values(structure: Callable[[Pair], Any]) -> None:
    operator = st.wrap(lambda x: structure(hard_pair(x)), lambda x: structure(soft_pair(x)))
    x = torch.tensor([0.5, 2.5], requires_grad=True)
    for inputs in (x, x.detach()):
        values = operator(inputs)
        assert type(values) is type(structure(soft_pair(x)))
        high, low = values.values() if isinstance(values, dict) else values
        assert (high.tolist(), low.tolist()) == ([0, 1], [0, 2])
        assert high.requires_grad == low.requires_grad == inputs.requires_grad
    values = operator(x)
    high, low = values.values() if isinstance(values, dict) else values
    both = torch.autograd.grad(high.sum() + 3 * low.sum(), x, retain_graph=True)[0]
    torch.testing.assert_close(both, expected(x.detach()))
    one = torch.autograd.grad(low.sum(), x)[0]
    torch.testing.assert_close(one, 2 * x.detach())


def weighted(x: Tensor) -> Tensor:
    high, low = st.wrap(hard_pair, soft_pair)(x)
    return (high + 3 * low).sum()


def test_several_values_under_transforms() -> None:
    x = torch.tensor([0.5, 2.5])
    torch.testing.assert_close(torch.func.grad(weighted)(x), expected(x))
    rows = torch.func.vmap(torch.func.grad(weighted))(torch.stack([x, -x]))
    torch.testing.assert_close(rows, torch.stack([expected(x), expected(-x)]))
    _, tangent = torch.func.jvp(weighted, (x,), (torch.ones(2),))
    torch.testing.assert_close(tangent, expected(x).sum())
    with fwd.dual_level():
        dual = weighted(fwd.make_dual(x, torch.ones(2)))
        torch.testing.assert_close(fwd.unpack_dual(dual).tangent, expected(x).sum())
    torch._dynamo.reset()
    leaf = x.clone().requires_grad_()
    torch.compile(weighted, fullgraph=True, backend="aot_eager")(leaf).backward()
    torch.testing.assert_close(leaf.grad, expected(x))
    full = torch.autograd.functional.hessian(weighted, x)
    s = torch.sigmoid(x)
    torch.testing.assert_close(full, torch.diag(s * (1 - s) * (1 - 2 * s) + 6))
    rows = torch.autograd.functional.jacobian(st.wrap(torch.sign, torch.tanh), x, vectorize=True)
    torch.testing.assert_close(rows, torch.diag(1 - x.tanh() ** 2))


def test_one_tensor_twice_has_both_gradients() -> None:
    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.sign()
        return y, y

    x = torch.tensor([0.5], requires_grad=True)
    one, two = st.wrap(twice, lambda x: (x**2, 5 * x))(x)
    assert one.data_ptr() != two.data_ptr()
    assert torch.autograd.grad(one + two, x)[0] == 6


def test_values_put_together_differently() -> None:
    x = torch.zeros(2, requires_grad=True)
    y = st.wrap(torch.sign, lambda x: (x, x))(x)
    says = "soft returned a tuple of 2 where hard returned a tensor"
    with pytest.raises(st.ArgumentError, match=says):
        y.sum().backward()
    with pytest.raises(st.ArgumentError, match=says):
        torch.func.grad(lambda x: st.wrap(torch.sign, lambda x: (x, x))(x).sum())(x)


def test_soft_runs_under_the_autocast_of_the_forward() -> None:
    operator = st.wrap(lambda x, w: F.linear(x, w).sign(), lambda x, w: F.linear(x, w).tanh())
    x = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    w = torch.randn(2, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = operator(x, w)
        loss = (y * torch.linspace(-1, 2, 2)).sum()
    loss.backward()
    ours = (x.grad, w.grad)
    x.grad = w.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        (F.linear(x, w).tanh() * torch.linspace(-1, 2, 2)).sum().backward()
    for one, other in zip(ours, (x.grad, w.grad), strict=True):
        assert one is not None
        assert other is not None
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_soft_runs_without_the_autocast_of_the_backward() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    y = st.wrap(lambda x: (x @ x.T).sign(), lambda x: (x @ x.T).tanh())(x)
    plain = (x @ x.T).tanh()
    with torch.autocast("cpu", torch.bfloat16):
        (ours,) = torch.autograd.grad(y.sum(), x)
        (theirs,) = torch.autograd.grad(plain.sum(), x)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("soft", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("hard", [torch.float64, torch.float32, torch.bfloat16, torch.bool])
def test_the_value_has_hards_dtype_wherever_soft_runs(hard: torch.dtype, soft: torch.dtype) -> None:
    operator = st.wrap(lambda x: x.sign().to(hard), lambda x: (2 * x).to(soft))
    due = torch.float32 if hard is torch.bool else hard
    x, ones = torch.tensor([0.5, -2.0]), torch.ones(2)
    torch._dynamo.reset()
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    for run in (operator, compiled):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        assert y.dtype == due
        assert torch.autograd.grad(y.sum(), leaf)[0].tolist() == [2, 2]
    assert torch.func.vmap(operator)(x).dtype == due
    assert torch.func.grad(lambda x: operator(x).sum())(x).tolist() == [2, 2]
    y, tangent = torch.func.jvp(operator, (x,), (ones,))
    assert y.dtype == tangent.dtype == due
    assert tangent.tolist() == [2, 2]


def test_a_soft_function_without_floats_is_refused_under_transforms() -> None:
    with pytest.raises(st.DtypeError, match=r"the value of soft must be .* got torch\.bool"):
        torch.func.grad(lambda x: st.wrap(torch.sigmoid, lambda x: x > 0)(x).sum())(torch.ones(3))


def test_a_value_that_is_not_dense_is_refused() -> None:
    with pytest.raises(st.ArgumentError, match=r"must be a dense tensor.*torch.sparse_coo"):
        st.wrap(lambda x: x.to_sparse(), torch.tanh)(torch.eye(3))
    adjacency = torch.eye(3).to_sparse()
    x = torch.ones(3, 1, requires_grad=True)
    step = st.wrap(lambda a, x: (a @ x).sign(), lambda a, x: 2 * (a @ x))
    assert torch.autograd.grad(step(adjacency, x).sum(), x)[0].tolist() == [[2], [2], [2]]
