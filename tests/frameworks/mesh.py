"""What ranks do in the tests of DTensors, on a mesh of two by two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)

import straightthrough as st
from straightthrough import testing
from straightthrough.testing import Case

R = Replicate()
ROWS = [(R, R), (Shard(0), R), (R, Shard(1)), (Shard(0), Shard(0)), (Shard(1), Shard(0))]
ELEMENTS = [(Shard(2), R), (Shard(0), Shard(2)), (Shard(1), Shard(2)), (Shard(2), Shard(2))]
SEED = 20
"""That of `Case`."""


def pair() -> DeviceMesh:
    return init_device_mesh("cpu", (2,))


def square() -> DeviceMesh:
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))


def distributed(case: Case, inputs: Any, on: DeviceMesh, placements: Any) -> tuple[Tensor, ...]:
    """Return the inputs as DTensors, of which those that rows share are whole on every rank."""
    return case.map(
        inputs,
        lambda x: distribute_tensor(x, on, placements),
        lambda x: distribute_tensor(x, on, [R] * on.ndim),
    )


def try_case(case: Case, on: DeviceMesh, placements: tuple[Placement, ...]) -> None:
    """Assert that value and gradients are those of the whole tensors, and lie as the input.

    No axis divides the first dimensions, 5 and 3.
    """
    inputs = case.input(5)
    grad = case.incoming(inputs)
    wanted, gradients = case.backward(inputs, grad)
    parts = distributed(case, inputs, on, placements)
    got, found = case.backward(parts, distribute_tensor(grad, on, placements))
    for one, other in zip(got, wanted, strict=True):
        assert one.placements == placements, f"{case} {placements} gave {one.placements}"
        assert torch.equal(one.full_tensor(), other), f"{case} {placements}: the value"
    for one, other in zip(found, gradients, strict=True):
        assert isinstance(one, DTensor)
        torch.testing.assert_close(one.full_tensor(), other, msg=lambda text: f"{case} {text}")


def first_cases() -> list[Case]:
    """Return every operator that takes DTensors with one of its rules, that of its own."""
    cases = {case.record.name: case for case in reversed(testing.cases())}
    cases |= {c.record.name: c for c in testing.cases() if c.rule == c.record.default}
    assert len(cases) > 20
    return [*cases.values()]


def try_every_operator(rank: int) -> None:
    on = pair()
    for case in first_cases():
        for dim in (0, 1) if case.record.inputs[0].named else (0, 1, 2):
            try_case(case, on, (Shard(dim),))
        try_case(case, on, (R,))
    noisy = [case for case in testing.cases() if case.rule is not None and case.rule.draws_noise]
    assert len(noisy) > 5
    for case in noisy:
        try_case(case, on, (Shard(1),))


def try_two_axes(rank: int) -> None:
    on = square()
    for case in first_cases():
        if case.record.name in ("sign", "bernoulli", "categorical", "categorical_lookup"):
            for placements in ROWS if case.record.inputs[0].named else ROWS + ELEMENTS:
                try_case(case, on, placements)


def try_refused(rank: int) -> None:
    """Assert that rows whose classes are sharded raise, and what mends it does."""
    on = pair()
    for case in first_cases():
        if case.record.inputs[0].named:
            inputs = case.input(5)
            parts = distributed(case, inputs, on, (Shard(2),))
            with pytest.raises(st.ArgumentError, match=r"redistribute.*placements\[0\]"):
                case(*parts)
            mended = case.map(parts, lambda x: x.redistribute(placements=[R]))
            assert torch.equal(case(*mended)[0].full_tensor(), case(*inputs)[0])
    logits, table = torch.randn(4, 5), torch.randn(5, 3)
    whole = distribute_tensor(logits, on, [R])
    with pytest.raises(st.ArgumentError, match="whole on every rank"):
        st.categorical_lookup(whole, distribute_tensor(table, on, [Shard(0)]))
    with pytest.raises(st.ArgumentError, match="distribute_tensor"):
        st.categorical_lookup(whole, table)
    with pytest.raises(st.ArgumentError, match="of a seed a plain tensor"):
        st.bernoulli(logits, seed=distribute_tensor(torch.tensor(1), on, [R]))
    with pytest.raises(st.ArgumentError, match="whole on every rank"):
        st.vector_quantize(whole, distribute_tensor(torch.randn(3, 5), on, [Shard(0)]))
    heads = distribute_tensor(torch.randn(4, 3, 5), on, [R])
    with pytest.raises(st.ArgumentError, match=r"must be \(K, D\), got \(4, 3, 5\)"):
        st.vector_quantize(whole, heads)
    seed, rows = st.Seed(1, offset=2, run=3, stride=7), distribute_tensor(logits, on, [Shard(0)])
    with pytest.raises(st.ArgumentError, match="only the offset"):
        st.bernoulli(rows, seed=seed)


def try_scales(rank: int) -> None:
    """A scale that broadcasts is cut where it has sizes of its own along what is sharded.

    Of three rows a rank has two, and the other one: of one row alone a scale of three makes three.
    """
    on, x = pair(), torch.arange(24.0).reshape(3, 2, 4).sin()
    scales = torch.arange(1, 25.0).reshape(3, 2, 4).cos().abs() + 0.1
    shares = [(0, 0, 0), (0, 0), (slice(None), slice(1), slice(1)), (slice(1), slice(None)), (0,)]
    for share in shares:
        for placement in (Shard(0), Shard(1), Shard(2), R):
            for shift in ("", "zero_point", "offset"):
                inputs = (x, scales[share], scales.flip(0)[share])[: 3 if shift else 2]
                leaves = [each.clone().requires_grad_() for each in inputs]
                parts = [
                    distribute_tensor(each, on, [placement if each is x else R]).requires_grad_()
                    for each in inputs
                ]
                y, z = (
                    st.fake_quantize(*each[:2], grid=st.grids.Int(4), **{shift: each[-1]})
                    if shift
                    else st.fake_quantize(*each, grid=st.grids.Int(4))
                    for each in (leaves, parts)
                )
                assert z.placements == (placement,)
                assert torch.equal(z.full_tensor(), y)
                y.square().sum().backward(), z.square().sum().backward()
                for part, leaf in zip(parts, leaves, strict=True):
                    if leaf.grad is not None:  # as that of a zero point
                        torch.testing.assert_close(part.grad.full_tensor(), leaf.grad)
    quantize = st.nn.Quantizer(st.grids.Int(4), st.scales.AbsMax(axis=0))
    part = distribute_tensor(x, on, [Shard(0)])  # whose scales are sharded as it is
    assert torch.equal(quantize(part).full_tensor(), quantize(x))


def try_numbers(rank: int) -> None:
    """A scale, a zero point or an offset that is a number lies beside any DTensor."""
    on, x, signed = pair(), torch.arange(64.0).reshape(2, 32).sin(), st.grids.Int(4)
    codes = st.grids.Int(4, signed=False)
    operators: list[Callable[[Tensor], Tensor]] = [
        lambda x: st.fake_quantize(x, 0.1, grid=signed),
        lambda x: st.fake_quantize(x, 0.1, grid=codes, zero_point=3),
        lambda x: st.fake_quantize(x, 0.1, grid=codes, offset=-0.2),
        lambda x: st.stochastic_quantize(x, 0.1, grid=signed, seed=3),
        st.nn.Quantizer(signed, st.scales.Fixed(value=0.1)),
        st.nn.Quantizer(st.grids.MX("e2m1"), st.scales.Fixed()),
    ]
    for operator in operators:
        leaf = x.clone().requires_grad_()
        part = distribute_tensor(x, on, [Shard(0)]).requires_grad_()
        y, z = operator(leaf), operator(part)
        assert torch.equal(z.full_tensor(), y)
        y.square().sum().backward(), z.square().sum().backward()
        assert torch.equal(part.grad.full_tensor(), leaf.grad)


def try_no_gradient(rank: int) -> None:
    """What a rule sends nothing may lie otherwise than the rest, or be a sum over ranks."""
    on, z, q = pair(), torch.arange(12.0).reshape(4, 3).sin(), torch.arange(12.0).reshape(4, 3)
    leaf = z.clone().requires_grad_()
    st.through(leaf, q, "rotation").square().sum().backward()
    for placements in ((Shard(0), R), (R, Shard(0)), (R, Shard(1))):
        parts = [
            distribute_tensor(each, on, [where]).requires_grad_()
            for each, where in zip((z, q), placements, strict=True)
        ]
        st.through(*parts, "rotation").square().sum().backward()
        torch.testing.assert_close(parts[0].grad.full_tensor(), leaf.grad)
        assert parts[1].grad is None or not parts[1].grad.full_tensor().any()
    quantize = st.nn.Quantizer(st.grids.Int(4), transform="tanh")  # whose maximum gets none
    leaf, part = z.clone().requires_grad_(), distribute_tensor(z, on, [Shard(0)]).requires_grad_()
    y, parted = quantize(leaf), quantize(part)
    torch.testing.assert_close(parted.full_tensor(), y)
    y.square().sum().backward(), parted.square().sum().backward()
    torch.testing.assert_close(part.grad.full_tensor(), leaf.grad)


def try_seeds(rank: int) -> None:
    """Without `seed=` all ranks draw as the first one would; an offset counts for the whole."""
    on, logits = square(), torch.randn(5, 3, 4)
    logits = distribute_tensor(logits, on, (R, R)).full_tensor()
    torch.manual_seed(0)
    wanted = st.categorical(logits), st.bernoulli(logits), st.poisson(log_rate=logits)
    last = torch.rand(())
    for placements in [(R, R), (Shard(0), R), (Shard(1), Shard(0))]:
        torch.manual_seed(rank)
        x = distribute_tensor(logits, on, placements)
        got = st.categorical(x), st.bernoulli(x), st.poisson(log_rate=x)
        for one, other in zip(got, wanted, strict=True):
            assert torch.equal(one.full_tensor(), other)
        assert torch.equal(torch.rand(()), last) == (rank == 0), "each rank has its own generator"
        generator = torch.Generator().manual_seed(rank)
        drawn = st.bernoulli(x, generator=generator).full_tensor()
        whole = st.bernoulli(logits, generator=torch.Generator().manual_seed(0))
        assert torch.equal(drawn, whole)
        seed = st.Seed(3, offset=11)
        assert torch.equal(
            st.bernoulli(x, seed=seed).full_tensor(), st.bernoulli(logits, seed=seed)
        )


def try_the_rest(rank: int) -> None:
    """Sums over ranks, a moved dimension, masks, `straight_through`, strictness, derivatives."""
    on, x = square(), torch.arange(60.0).reshape(5, 3, 4).sin()
    sharded = (Shard(0), Shard(1))

    def part(x: Tensor, placements: Any = sharded) -> DTensor:
        return distribute_tensor(x, on, placements)

    summed = DTensor.from_local(x / 4, on, (Partial(), Partial()))
    assert torch.equal(st.sign(summed).full_tensor(), st.sign(x))

    moved = st.categorical(part(x, (Shard(2), R)), dim=1, seed=3)
    assert moved.placements == (Shard(2), R)
    assert torch.equal(moved.full_tensor(), st.categorical(x, dim=1, seed=3))

    masked = st.argmax(part(x), mask=part(x < 0.5))
    assert torch.equal(masked.full_tensor(), st.argmax(x, mask=x < 0.5))

    y = st.straight_through(part(x.sign()), part(x.tanh(), (Shard(1), R)))
    assert torch.equal(y.full_tensor(), x.sign())

    halves = st.wrap(lambda x: (2 * x).round() / 2, torch.tanh)
    assert torch.equal(halves(part(x)).full_tensor(), halves(x))

    chosen = [st.nn.Argmax(st.nn.schedules.Confidence(decay=0.5)) for _ in range(2)]
    assert torch.equal(chosen[0](part(x)).full_tensor(), chosen[1](x))
    torch.testing.assert_close(*(module.tau.running for module in chosen))

    holed = x.clone()
    holed[4, 2, 1] = torch.nan
    with st.strict(), pytest.raises(st.ArgumentError, match=r"row \(4, 2\)"):
        st.argmax(part(holed))

    def twice(x: Tensor, operator: Any) -> Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(operator(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    for operator in (
        lambda x: st.sign(x, surrogate="tanh") * x,
        lambda x: st.categorical(x, "gumbel", seed=1) * x,
    ):
        second = twice(part(x), operator)
        assert isinstance(second, DTensor)
        torch.testing.assert_close(second.full_tensor(), twice(x, operator))
        with torch.no_grad():
            assert torch.equal(operator(part(x)).full_tensor(), operator(x))


def try_compiled(rank: int) -> None:
    on, x = pair(), torch.arange(60.0).reshape(5, 3, 4).sin()

    def operators(x: Tensor) -> Tensor:
        return st.sign(x) + 2 * st.categorical(x, "gumbel", seed=1) + 4 * st.bernoulli(x)

    compiled = torch.compile(operators, fullgraph=True, backend="aot_eager")
    part = distribute_tensor(x, on, [Shard(1)])
    found = []
    for function, leaf in ((operators, x), (compiled, part)):
        torch.manual_seed(0 if leaf is x else rank)
        leaf = leaf.detach().requires_grad_()
        y = function(leaf)
        (y * leaf).sum().backward()
        found.append((y.detach(), leaf.grad))
    (wanted, gradient), (got, parted) = found
    assert got.placements == part.placements
    assert torch.equal(got.full_tensor(), wanted)
    torch.testing.assert_close(parted.full_tensor(), gradient)


def try_gates(rank: int) -> None:
    """A gate called on a parameter that `fully_shard` has cut, and on one that was cut before."""
    on = square()
    for already in (False, True):
        gate, whole = st.nn.HardConcreteGate(10, probs=0.7), st.nn.HardConcreteGate(10, probs=0.7)
        if already:
            logits = distribute_tensor(gate.logits.detach(), on["inner"], [Shard(0)])
            gate.logits = torch.nn.Parameter(logits)
        fully_shard(torch.nn.Sequential(gate), mesh=on["outer"] if already else on["inner"])
        torch.manual_seed(rank % 2)  # where the mesh is "inner", there are two
        got = gate()
        torch.manual_seed(0)
        wanted = whole()
        assert got.placements == gate.logits.placements
        torch.testing.assert_close(got.full_tensor(), wanted, rtol=0, atol=1e-6)
        (got.sum() + 0.1 * gate.l0()).backward()
        (wanted.sum() + 0.1 * whole.l0()).backward()
        torch.testing.assert_close(gate.logits.grad.full_tensor(), whole.logits.grad)
        gate.eval(), whole.eval()
        torch.testing.assert_close(gate.mean().full_tensor(), whole.mean())
