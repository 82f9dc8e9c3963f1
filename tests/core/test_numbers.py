"""Numbers of rules and operators: Python's, numpy's, 0-d tensors, and those that move."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

import straightthrough as st
from straightthrough.core.registry import OPERATORS, RULES
from straightthrough.core.rules import Rule

Function = Callable[[Tensor, object], Tensor]
WEIGHT = torch.linspace(-1, 2, 20).reshape(4, 5)


def example() -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


OTHERS = {"fake_quantize": [torch.tensor(0.5)], "through": [-WEIGHT]}
"""The inputs after the first of operators that have more."""

UNITS = {"amplitude": 0.1, "k": 5.0}
"""What 1 stands for in fields that must be smaller, or larger."""


def of_rule(rule: Rule, name: str) -> Function:
    """The first operator that takes the rule, one of whose numbers is given."""
    record = next(record for record in OPERATORS.values() if isinstance(rule, record.fits))
    drawn = {"seed": 1} if record.samples else {}
    others, unit = OTHERS.get(record.name, []), UNITS.get(name, 1.0)

    def function(x: Tensor, number: object) -> Tensor:
        given = dataclasses.replace(rule, **{name: number * unit})
        return record.call(x, *others, **record.arguments, **{str(record.rule): given}, **drawn)

    return function


FUNCTIONS: dict[str, Function] = {
    "argmax": lambda x, tau: st.argmax(x, tau=tau),
    "topk": lambda x, tau: st.topk(x, 2, tau=tau),
    "gumbel_softmax": lambda x, tau: st.gumbel_softmax(x, tau, seed=1),
    "gumbel_softmax hard": lambda x, tau: st.gumbel_softmax(x, tau, hard=True, seed=1),
    "binary_concrete": lambda x, tau: st.binary_concrete(x, tau=tau, seed=1),
    "hard_concrete": lambda x, tau: st.hard_concrete(x, tau=tau, seed=1),
    "zeta": lambda x, number: st.hard_concrete(x, zeta=2 * number, seed=1),
    "rank": lambda x, strength: st.rank(x, strength=3 * strength),
    "permutation": lambda x, tau: st.permutation(x, tau=tau) @ WEIGHT[0],
    "reorder": lambda x, tau: st.reorder(x, x.unsqueeze(-1), tau=tau).squeeze(-1),
    "assignment": lambda x, tau: st.assignment(x.mT @ x, tau=tau)[:4],
    "l0_norm": lambda x, tau: st.l0_norm(x, tau=tau),
    "heaviside": lambda x, threshold: st.heaviside(x, threshold),
    "ternary": lambda x, threshold: st.ternary(x, threshold),
    "clamp": lambda x, number: st.clamp(x, -number, number, surrogate="clipped"),
    **{
        f"{record.name}.{field.name}": of_rule(record.example, field.name)
        for record in RULES.values()
        for field in dataclasses.fields(record.type)
        if isinstance(getattr(record.example, field.name), float)
    },
}
by_name = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def pull(function: Function, number: object) -> tuple[Tensor, Tensor]:
    x = example().requires_grad_()
    y = function(x, number)
    weight = WEIGHT if y.shape == WEIGHT.shape else WEIGHT[:, 0]
    (y * weight).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def assert_alike(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@by_name
@pytest.mark.parametrize(
    "number",
    [np.float32(0.75), np.float64(0.75), torch.tensor(0.75), torch.tensor(0.75).double()],
    ids=lambda number: f"{type(number).__name__} {number.dtype}",
)
def test_a_number_of_any_kind_is_that_number(function: Function, number: object) -> None:
    for one, other in zip(pull(function, number), pull(function, 0.75), strict=True):
        assert torch.equal(one, other)


@by_name
def test_a_number_that_moves_is_compiled_at_most_once_more(function: Function) -> None:
    """Python's is a constant first, and from the second value on the tensor that others are."""
    for first, make, backend in ((2, float, "eager"), (1, torch.tensor, "aot_eager")):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend(backend)
        compiled = torch.compile(function, fullgraph=True, backend=counter)
        for number in (0.9, 0.8, 0.7, 0.6):
            assert_alike(pull(compiled, make(number)), pull(function, number))
        assert counter.frame_count <= first


@by_name
def test_a_number_of_numpys_is_taken_by_compiled_code(function: Function) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_alike(pull(compiled, np.float32(0.75)), pull(function, 0.75))


def test_a_number_of_numpys_is_exported() -> None:
    class Sign(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return st.sign(x, st.surrogates.Tanh(np.float32(0.75)))

    program = torch.export.export(Sign(), (example(),))
    got = pull(lambda x, _: program.module()(x), None)
    assert_alike(got, pull(lambda x, _: st.sign(x, st.surrogates.Tanh(0.75)), None))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_rule_with_a_number_of_numpys_is_compiled(kind: type) -> None:
    rule = st.surrogates.Tanh(kind(0.75))
    compiled = torch.compile(st.sign, fullgraph=True, backend="aot_eager")
    assert_alike(pull(compiled, rule), pull(st.sign, st.surrogates.Tanh(0.75)))


@by_name
def test_a_wrong_number_is_refused(function: Function) -> None:
    for number, says in (
        (torch.tensor(0.5, requires_grad=True), "gets no gradient"),
        (torch.tensor([0.5, 0.5]), r"number or a 0-d tensor.* of shape \(2,\)"),
        (torch.tensor(float("nan")), "finite"),
        (torch.tensor(1j), "torch.complex64"),
    ):
        with pytest.raises(st.ArgumentError, match=says):
            function(example(), number)


@by_name
def test_a_derivative_by_a_number_is_refused_in_both_modes(function: Function) -> None:
    x, number = example(), torch.tensor(0.5)
    for derivative in (torch.func.jacrev, torch.func.jacfwd):
        with pytest.raises(st.ArgumentError, match="gets no gradient"):
            derivative(lambda number: function(x, number).sum())(number)
    with forward_ad.dual_level(), pytest.raises(st.ArgumentError, match="gets no gradient"):
        function(x, forward_ad.make_dual(number, number))


def test_a_tensor_counts_as_it_is_at_the_call() -> None:
    """Not as it was when the rule was made, nor as it becomes before backward."""
    tau = torch.tensor(2.0)
    rule = st.estimators.StraightThrough(tau)
    tau.fill_(0.5)
    x = example().requires_grad_()
    y = st.categorical(x, rule, seed=1)
    tau.fill_(7.0)
    (y * WEIGHT).sum().backward()
    wanted = pull(lambda x, tau: st.categorical(x, "straight_through", seed=1), None)[1]
    assert not torch.equal(x.grad, wanted)
    half = st.estimators.StraightThrough(0.5)
    assert torch.equal(x.grad, pull(lambda x, _: st.categorical(x, half, seed=1), None)[1])
    tau.fill_(-1.0)
    with pytest.raises(st.ArgumentError, match="tau must be above 0"):
        st.categorical(x, rule)


def test_vmap_over_a_temperature() -> None:
    taus = torch.tensor([0.5, 1.0, 2.0])
    gradient = torch.func.grad(lambda x, tau: (st.argmax(x, tau=tau) * WEIGHT).sum())
    mapped = torch.func.vmap(gradient, (None, 0))(example(), taus)
    loop = torch.stack([gradient(example(), float(tau)) for tau in taus])
    torch.testing.assert_close(mapped, loop)


def test_a_tensor_in_the_place_of_a_number_is_a_buffer() -> None:
    tau = torch.tensor(0.5)
    module = st.nn.Categorical("straight_through", tau=tau)
    assert dict(module.named_buffers())["tau"] is tau
    assert module.rule == st.estimators.StraightThrough(tau)
    tau.fill_(2.0)
    gradients = []
    for each in (module, st.nn.Categorical("straight_through", tau=2.0)):
        x = torch.zeros(1, 3, requires_grad=True)
        torch.manual_seed(1)
        (each(x) @ torch.arange(3.0)).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    twin = st.nn.Categorical("straight_through", tau=torch.tensor(1.0))
    twin.load_state_dict(module.state_dict())
    assert twin.tau.item() == 2.0


WHOLE: dict[str, Callable[[Callable[[int], int]], Tensor]] = {
    "seed": lambda of: st.bernoulli(example(), seed=of(7)),
    "place": lambda of: st.bernoulli(example(), seed=st.Seed(of(7), of(3), of(2), of(4))),
    "dim": lambda of: st.categorical(example(), seed=1, dim=of(0)),
    "k": lambda of: st.topk(example(), of(2)),
    "draws": lambda of: st.sample_topk(example(), of(2), seed=1),
    "law": lambda of: st.subset_entropy(example(), of(2)),
    "total_count": lambda of: st.binomial(example(), total_count=of(9), seed=1),
    "levels": lambda of: st.fsq(example(), [of(5)] * 5)[1],
    "bits": lambda of: st.lfq_decode(torch.arange(4), of(2)),
    "event_dim": lambda of: st.solve(torch.sign, example(), event_dim=of(2), seed=1),
    "vjp": lambda of: st.relaxations.Softmax().vjp(example(), WEIGHT, k=of(2)),
    "jvp": lambda of: st.relaxations.Softmax().jvp(example(), WEIGHT, k=of(2)),
    "nn.TopK": lambda of: st.nn.TopK(of(2))(example()),
    "nn.Binomial": lambda of: st.nn.Binomial(of(9)).eval()(example()),
    "nn.FSQ": lambda of: st.nn.FSQ([of(5)] * 5)(example()).index,
    "samples": lambda of: drawn_gradient("gumbel_rao", samples=of(4)),
    "draws of a rule": lambda of: drawn_gradient(st.estimators.ReinMaxRao(samples=of(4))),
    "order": lambda of: st.poisson(example().exp(), order=of(3), seed=1),
    "steps": lambda of: st.sample_subset(example(), 2, "second_order", steps=of(2), seed=1),
    "terms": lambda of: st.surrogates.SquareWave(of(3)).derivative(example()),
    "iterations": lambda of: st.assignment(example()[:, :4], iterations=of(3)),
    "block": lambda of: st.fake_quantize(example()[:, :4], 1.0, grid=st.grids.MX("e2m1", of(2))),
    "grid": lambda of: st.fake_quantize(example(), 0.1, grid=st.grids.Int(of(4))),
    "schedule": lambda of: torch.tensor(st.nn.schedules.Linear(2.0, 1.0, of(4)).steps),
    "nn.TopKRouter": lambda of: st.nn.TopKRouter(of(5), of(2))(example()).gates,
    "nn.LFQ": lambda of: st.nn.LFQ(of(5))(example()).loss,
    "nn.VectorQuantizer": lambda of: st.nn.VectorQuantizer(of(8), of(5)).book.statistics.count,
    "nn.ResidualVQ": lambda of: st.nn.ResidualVQ(of(2), of(8), of(5)).books[1].statistics.count,
    "nn.GroupedVQ": lambda of: st.nn.GroupedVQ(of(1), of(8), of(5)).books[0].statistics.count,
    "nn.ControlVariate": lambda of: st.nn.ControlVariate((of(4), of(5))).square,
    "nn.HardConcreteGate": lambda of: st.nn.HardConcreteGate(of(5)).logits,
}


def drawn_gradient(estimator: object, **fields: object) -> Tensor:
    x = example().requires_grad_()
    y = st.categorical(x, estimator, seed=1, **fields)
    return torch.autograd.grad((y * WEIGHT).sum(), x)[0]


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_may_be_numpys(name: str, kind: Callable[[int], int]) -> None:
    assert torch.equal(WHOLE[name](kind), WHOLE[name](int))


def test_a_bool_of_numpys_is_no_whole_number() -> None:
    for name in ("seed", "dim", "k", "total_count", "levels", "bits", "event_dim", "nn.TopK"):
        with pytest.raises(st.ArgumentError, match=r"must be (an int|ints)"):
            WHOLE[name](np.bool_)
