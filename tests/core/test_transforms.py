"""Every transform of torch, eager and compiled; dual numbers, numbers that change."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor, func

import straightthrough as st
from straightthrough.core.rules import Relaxation

Function = Callable[[Tensor], Tensor]

OPERATORS: dict[str, Function] = {
    "sign": lambda x: st.sign(x, surrogate="tanh"),
    "argmax": st.argmax,
    "topk": lambda x: st.topk(x, 2, tau=0.7),
    "topk of softmax": lambda x: st.topk(x, 2, "softmax", tau=0.7),
    "categorical": lambda x: st.categorical(x, seed=2),
    "gumbel_softmax": lambda x: st.gumbel_softmax(x, 0.7, seed=2),
    "bernoulli": lambda x: st.bernoulli(x, seed=2),
    "wrap": st.wrap(torch.sign, torch.tanh),
}
FORWARD_MODE = ["sign", "argmax", "topk", "topk of softmax", "gumbel_softmax", "wrap"]


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def example() -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


WEIGHT = torch.linspace(-1, 2, 20).reshape(4, 5)


def transforms(f: Function) -> dict[str, Function]:
    """Every transform, as a function of the example."""

    def loss(x: Tensor, weight: Tensor = WEIGHT) -> Tensor:
        return (f(x) * weight).sum()

    def of_batch(x: Tensor) -> Tensor:
        return (func.vmap(f)(x) * WEIGHT).sum()

    def push(x: Tensor, tangent: Tensor = WEIGHT) -> Tensor:
        return func.jvp(f, (x,), (tangent,))[1]

    return {
        "vmap": func.vmap(f),
        "grad": func.grad(loss),
        "vmap of grad": lambda x: func.vmap(func.grad(loss))(x, WEIGHT),
        "grad of vmap": func.grad(of_batch),
        "jacrev": func.jacrev(loss),
        "grad of grad": func.grad(lambda x: func.grad(loss)(x).square().sum()),
        "grad of grad of vmap": func.grad(lambda x: func.grad(of_batch)(x).square().sum()),
        "jvp": push,
        "jacfwd": func.jacfwd(loss),
        "hessian": func.hessian(loss),
        "jvp of vmap": lambda x: func.jvp(func.vmap(f), (x,), (WEIGHT,))[1],
        "vmap of jvp": lambda x: func.vmap(push)(x, WEIGHT),
        "jvp of jvp": lambda x: func.jvp(push, (x,), (WEIGHT.cos(),))[1],
    }


FORWARD = ("jvp", "jacfwd", "hessian", "jvp of vmap", "vmap of jvp", "jvp of jvp")
TRANSFORMED = [
    (name, transform)
    for name in OPERATORS
    for transform in transforms(torch.sign)
    if transform not in FORWARD or name in FORWARD_MODE
]


@pytest.mark.parametrize(("name", "transform"), TRANSFORMED)
def test_compiled_transforms_are_the_eager_ones(name: str, transform: str) -> None:
    function = transforms(OPERATORS[name])[transform]
    wanted = function(example())
    assert wanted.abs().max() > 0.001
    torch.testing.assert_close(compiled(function)(example()), wanted)


def two_of_sigmoids(x: Tensor) -> Tensor:
    """Sigmoids that sum to 2: Newton's method, differentiated as it stands."""
    b = x.mean(-1, keepdim=True)
    for _ in range(12):
        y = torch.sigmoid(x - b)
        b = b + (y.sum(-1, keepdim=True) - 2) / (y * (1 - y)).sum(-1, keepdim=True)
    return torch.sigmoid(x - b)


SOFT: dict[str, Function] = {
    "sign": torch.tanh,
    "argmax": lambda x: x.softmax(-1),
    "topk": lambda x: two_of_sigmoids(x / 0.7),
    "topk of softmax": lambda x: 2 * (x / 0.7).softmax(-1),
    "wrap": torch.tanh,
}


@pytest.mark.parametrize("transform", [*transforms(torch.sign)][1:])
@pytest.mark.parametrize("name", SOFT)
def test_transforms_are_those_of_the_soft_function(name: str, transform: str) -> None:
    """All but the value, and what is taken of a gradient that depends on it."""
    ours, theirs = (transforms(f)[transform] for f in (OPERATORS[name], SOFT[name]))
    torch.testing.assert_close(ours(example()), theirs(example()))


ASSIGNED: dict[str, Function] = {
    "assignment": lambda x: st.assignment(x.unsqueeze(-1) * x.cos(), iterations=3)[..., 0],
    "a relaxation of one's own": lambda x: st.topk(x, 2, Tilted()),
}


@dataclass(frozen=True)
class Tilted(Relaxation):
    """One whose `jvp` is that of its formula."""

    def soft(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) * x.softmax(-1)


def nests(f: Function) -> dict[str, Function]:
    """Derivatives of derivatives through `vmap`, as functions of a batch of three."""

    def loss(x: Tensor) -> Tensor:
        return (f(x) * WEIGHT[:3]).sum()

    def second(x: Tensor) -> Tensor:
        return func.grad(lambda x: (func.grad(loss)(x) * x).sum())(x)

    def pushed(f: Function) -> Function:
        return lambda x: func.jvp(f, (x,), (WEIGHT[:3],))[1]

    return {
        "second derivative": second,
        "jvp of jvp": pushed(pushed(f)),
        "jvp": pushed(f),
        "third derivative": func.grad(lambda x: (second(x) * WEIGHT[:3].cos()).sum()),
        "jvp of second derivative": pushed(second),
    }


def looped(f: Function) -> Function:
    return lambda x: torch.stack([f(row) for row in x])


@pytest.mark.parametrize("nest", nests(torch.sign))
@pytest.mark.parametrize("name", [*OPERATORS, *ASSIGNED])
def test_derivatives_of_any_order_of_vmap_are_those_of_a_loop(name: str, nest: str) -> None:
    if "jvp" in nest and name in OPERATORS and name not in FORWARD_MODE:
        pytest.skip("its rule defines a gradient only")
    f = {**OPERATORS, **ASSIGNED}[name]
    x = example()[:3].double()
    wanted = nests(looped(f))[nest](x)
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(nests(func.vmap(f))[nest](x), wanted)


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch's own
def test_noise_survives_what_linearize_does_to_its_graph() -> None:
    x, tangent = example().double(), WEIGHT.double()
    f = functools.partial(st.sample_topk, k=2, seed=1)
    value, linear = func.linearize(f, x)
    assert torch.equal(value, f(x))
    torch.testing.assert_close(linear(tangent), func.jvp(f, (x,), (tangent,))[1])


def test_an_empty_batch_shares_a_seed() -> None:
    mapped = func.vmap(lambda x: st.categorical(x, seed=1))
    assert mapped(torch.empty(0, 3)).shape == (0, 3)


def test_forward_mode_of_a_draw_is_refused_in_compiled_code_too() -> None:
    """In a process of its own, as torch does not leave a level whose trace has failed."""
    code = (
        "import torch, straightthrough as st\n"
        "x = torch.zeros(2, 3)\n"
        "push = lambda x: torch.func.jvp(lambda x: st.categorical(x, seed=1), (x,), (x,))[1]\n"
        "try: torch.compile(push, backend='aot_eager')(x)\n"
        "except Exception as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "has no forward-mode derivative" in run.stdout, run.stderr


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("categorical", st.categorical),
        ("categorical_lookup", lambda x: st.categorical_lookup(x, torch.ones(3, 2))),
        ("categorical_integer", st.categorical_integer),
        ("bernoulli", st.bernoulli),
        ("sample_subset", lambda x: st.sample_subset(x, 2)),
        ("solve", lambda x: st.solve(torch.sign, x)),
    ],
)
def test_forward_mode_of_a_draw_is_refused_by_its_name(name: str, call: Function) -> None:
    x = torch.randn(2, 3)
    with pytest.raises(st.StraightThroughError, match=rf"^st\.{name} has no forward-mode"):
        func.jvp(call, (x,), (x,))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_compiled_vmap_draws_as_its_randomness_says(randomness: str) -> None:
    batch = torch.zeros(6, 5, 4)
    mapped = compiled(torch.func.vmap(st.categorical, randomness=randomness))(batch)
    assert torch.equal(mapped.sum(-1), torch.ones(6, 5))
    alike = bool((mapped == mapped[:1]).all())
    assert alike == (randomness == "same")


@pytest.mark.parametrize("name", FORWARD_MODE)
def test_dual_numbers(name: str) -> None:
    x, tangent = example().double(), example().double().cos()
    jacobian = torch.autograd.functional.jacobian(OPERATORS[name], x)
    with fwd.dual_level():
        moved = fwd.unpack_dual(OPERATORS[name](fwd.make_dual(x, tangent))).tangent
    assert moved.abs().max() > 0.01
    torch.testing.assert_close(moved, torch.einsum("abij,ij->ab", jacobian, tangent))


def test_arguments_of_the_wrong_kind() -> None:
    with pytest.raises(st.DtypeError, match=r"mask must be a bool tensor .* got list"):
        st.categorical(torch.zeros(2), mask=[True, False])  # type: ignore[arg-type]  # on purpose
    with pytest.raises(st.ArgumentError, match=r"generator must be a torch\.Generator, got 5"):
        st.categorical(torch.zeros(2), generator=5)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("name", OPERATORS)
def test_a_tensor_that_outlived_its_transforms(name: str, depth: int) -> None:
    weight, leaked = example().requires_grad_(), []

    def leak(x: Tensor) -> Tensor:
        leaked.append(2 * weight + x)
        return x.sum()

    for _ in range(depth):
        leak = func.grad(leak)
    leak(torch.zeros(()))
    (got,) = torch.autograd.grad(OPERATORS[name](leaked[0])[..., 0].sum(), weight)
    (wanted,) = torch.autograd.grad(OPERATORS[name](2 * weight)[..., 0].sum(), weight)
    assert wanted.abs().max() > 0.01
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", FORWARD_MODE)
def test_such_a_tensor_inside_a_dual_level(name: str) -> None:
    weight, leaked = example().requires_grad_(), []
    func.grad(func.grad(lambda x: (leaked.append(2 * weight + x), x)[1]))(torch.zeros(()))
    with fwd.dual_level():
        loss = OPERATORS[name](leaked[0])[..., 0].sum()
    (got,) = torch.autograd.grad(loss, weight)
    (wanted,) = torch.autograd.grad(OPERATORS[name](2 * weight)[..., 0].sum(), weight)
    assert torch.equal(got, wanted)


BATCHED: dict[str, Function] = {
    **OPERATORS,
    "permutation": st.permutation,
    "reorder": lambda x: st.reorder(x, WEIGHT.cos().unsqueeze(-1)),
    **{
        rule: functools.partial(lambda rule, x: st.solve(two_largest, x, rule, seed=2), rule)
        for rule in ("identity", "blackbox", "imle", "perturbed")
    },
}


def two_largest(theta: Tensor) -> Tensor:
    return torch.zeros_like(theta).scatter(-1, theta.topk(2).indices, 1.0)


@pytest.mark.parametrize("name", BATCHED)
def test_gradients_in_a_batch_are_those_of_a_loop(name: str) -> None:
    """`is_grads_batched`, and `vectorize=True` of a Jacobian: a `vmap` of torch's own, and old."""
    x = example().requires_grad_()
    y = BATCHED[name](x)
    weights = 9 * torch.randn(3, *y.shape)
    pull = functools.partial(torch.autograd.grad, y, x, retain_graph=True)
    (found,) = pull(weights, is_grads_batched=True)
    wanted = torch.stack([pull(weight)[0] for weight in weights])
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["argmax", "topk", "gumbel_softmax"])
def test_backward_under_saved_tensor_hooks(name: str) -> None:
    x = example().requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        (wanted,) = torch.autograd.grad(OPERATORS[name](x)[..., 0].sum(), x)
    (plain,) = torch.autograd.grad(OPERATORS[name](x)[..., 0].sum(), x)
    assert plain.abs().max() > 0.01
    assert torch.equal(wanted, plain)


def test_what_all_examples_share_gets_the_gradients_of_all() -> None:
    """A table and a soft value that `vmap` does not map, and an example mapped along its last."""
    batch, table, weight = torch.randn(3, 4, 5), torch.randn(5, 2), torch.randn(3, 4, 2)

    def looked_up(x: Tensor, table: Tensor) -> Tensor:
        return st.categorical_lookup(x, table, seed=1)

    def mapped(table: Tensor, x: Tensor) -> Tensor:
        found = func.vmap(looked_up, (-1, None))(x.movedim(0, -1), table)
        return (found * weight).sum()

    def loop(table: Tensor, x: Tensor) -> Tensor:
        return (torch.stack([looked_up(one, table) for one in x]) * weight).sum()

    got, wanted = (func.grad(f, (0, 1))(table, batch) for f in (mapped, loop))
    for one, other in zip(got, wanted, strict=True):
        assert other.abs().max() > 0.01
        torch.testing.assert_close(one, other)
    soft = torch.randn(4, 5)
    shared = func.vmap(st.straight_through, (0, None))
    gradient = func.grad(lambda soft: (shared(batch, soft) * batch).sum())(soft)
    torch.testing.assert_close(gradient, batch.sum(0))
