"""straight_through: the hard value bit for bit, the soft gradient, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import straightthrough as st
from straightthrough import testing
from straightthrough.core.errors import FLOATING
from straightthrough.core.kernels import disabled
from straightthrough.testing.values import saved_tensors

NAN, INFINITY = math.nan, math.inf
SIGNED = [torch.int8, torch.int16, torch.int32, torch.int64]

# The hard dtypes whose every value is a value of the soft dtype: significands of 11, 8, 24 and 53
# bits hold the integers up to 2^11, 2^8, 2^24 and 2^53, and bf16's range is float32's.
EXACT = {
    torch.float16: {torch.bool, torch.uint8, torch.int8, torch.float16},
    torch.bfloat16: {torch.bool, torch.uint8, torch.int8, torch.bfloat16},
    torch.float32: {
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16),
        *(torch.float16, torch.bfloat16, torch.float32),
    },
    torch.float64: {
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16),
        *(torch.int32, torch.uint32, *FLOATING),
    },
}
HARD = [torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, *SIGNED, *FLOATING]
HARD += [torch.complex64]


def extremes(dtype: torch.dtype) -> Tensor:
    """The values of a dtype that a cast is most likely to lose."""
    if dtype == torch.bool:
        return torch.tensor([False, True])
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        return torch.tensor([info.min, info.max, info.max - 1, 0, 1], dtype=dtype)
    info = torch.finfo(dtype)
    smallest = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)).item()
    values = [info.max, info.min, info.tiny, smallest, 1 + info.eps, -0.0, INFINITY, -INFINITY]
    return torch.tensor(values, dtype=dtype)


def bits(x: Tensor) -> list[int]:
    widths = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.detach().contiguous().view(widths[x.element_size()]).flatten().tolist()


@pytest.mark.parametrize("soft", FLOATING)
@pytest.mark.parametrize("hard", HARD)
def test_dtypes_that_cast_exactly_and_those_that_do_not(
    hard: torch.dtype, soft: torch.dtype
) -> None:
    carrier = torch.zeros(5, dtype=soft, requires_grad=True)
    if hard in EXACT[soft]:
        values = extremes(hard)
        carrier = torch.zeros(values.shape, dtype=soft, requires_grad=True)
        y = st.straight_through(values, carrier)
        assert y.dtype == soft
        # Python's numbers hold every value of either dtype.
        assert [float(v) for v in values.tolist()] == y.tolist()
        assert bits(y) == bits(values.to(soft))
    else:
        message = f"hard of {hard} does not cast exactly to soft's {soft}"
        with pytest.raises(st.DtypeError, match=message):
            st.straight_through(torch.zeros(5, dtype=hard), carrier)


@pytest.mark.parametrize("dtype", FLOATING)
def test_value_is_bit_for_bit(dtype: torch.dtype) -> None:
    """Signed zeros, infinities and NaN payloads; and never hard - soft + soft."""
    hard = torch.tensor([-0.0, 0.0, INFINITY, -INFINITY, NAN, 1 / 3, 1.0], dtype=dtype)
    soft = torch.tensor([5.0, -7.0, 1.0, NAN, 2.0, 100.3, -INFINITY], dtype=dtype)
    assert bits(st.straight_through(hard, soft)) == bits(hard)


def test_the_textbook_expression_is_not_exact() -> None:
    """What the operator is for: in bf16, hard + soft - soft is another number."""
    soft = torch.linspace(90, 110, 1001, dtype=torch.bfloat16)
    hard = torch.sign(soft) / 3
    assert torch.equal(st.straight_through(hard, soft), hard)
    assert ((hard - soft) + soft != hard).float().mean() > 0.5


def test_a_tangent_of_the_hard_value_is_none() -> None:
    hard, soft = torch.tensor([1.0, -1.0]), torch.tensor([0.5, -0.2])
    with forward_ad.dual_level():
        moved = forward_ad.make_dual(hard, torch.ones(2))
        held = st.straight_through(moved, soft)
        both = st.straight_through(moved, forward_ad.make_dual(soft, torch.full((2,), 3.0)))
        assert forward_ad.unpack_dual(held).tangent is None
        assert forward_ad.unpack_dual(both).tangent.tolist() == [3.0, 3.0]


def test_gradient_goes_to_soft_alone() -> None:
    x = torch.tensor([0.3, -2.0], requires_grad=True)
    hard_source = torch.tensor([1.0, 2.0], requires_grad=True)
    y = st.straight_through(hard_source * 3, x.tanh())
    assert y.tolist() == [3, 6]
    first, second = torch.autograd.grad(
        y, (x, hard_source), torch.tensor([1.0, 5.0]), allow_unused=True
    )
    torch.testing.assert_close(first, torch.tensor([1.0, 5.0]) * (1 - x.detach().tanh() ** 2))
    assert second is None


@pytest.mark.parametrize(
    ("hard", "soft", "result"),
    [
        ((3, 1), (1, 4), (3, 4)),
        ((), (2, 3), (2, 3)),
        ((2, 3), (), (2, 3)),
        ((0, 3), (1, 3), (0, 3)),
        ((5, 1, 2), (3, 1), (5, 3, 2)),
    ],
)
def test_broadcasting(
    hard: tuple[int, ...], soft: tuple[int, ...], result: tuple[int, ...]
) -> None:
    h, s = torch.randn(hard), torch.randn(soft, requires_grad=True)
    y = st.straight_through(h, s)
    assert torch.equal(y, h.expand(result))
    grad = torch.randn(result)
    got = torch.autograd.grad(y, s, grad)[0]
    torch.testing.assert_close(got, grad.sum_to_size(soft))


def test_shapes_that_do_not_broadcast() -> None:
    with pytest.raises(st.ShapeError, match=r"got shapes \(2,\) and \(3,\)"):
        st.straight_through(torch.zeros(2), torch.zeros(3))


def test_what_is_not_a_tensor() -> None:
    with pytest.raises(st.DtypeError, match="hard of float does not cast"):
        st.straight_through(1.0, torch.zeros(1))  # type: ignore[arg-type]  # that is the test
    with pytest.raises(st.DtypeError, match="soft must be a tensor, got float"):
        st.straight_through(torch.zeros(1), 1.0)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(st.DtypeError, match=r"soft must be float16.*torch\.int64"):
        st.straight_through(torch.zeros(1), torch.zeros(1, dtype=torch.int64))


def test_result_owns_its_memory() -> None:
    """Writing into the result, or into an argument afterwards, touches nothing else."""
    hard, soft = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0], requires_grad=True)
    y = st.straight_through(hard, soft)
    hard.zero_()
    assert y.tolist() == [1, 2]
    y.mul_(10)
    assert (y.tolist(), hard.tolist(), soft.tolist()) == ([10, 20], [0, 0], [3, 4])
    y.sum().backward()
    assert soft.grad is not None
    assert soft.grad.tolist() == [10, 10]
    broadcast = st.straight_through(torch.tensor(7.0), torch.zeros(3))
    broadcast[0] = 0
    assert broadcast.tolist() == [0, 7, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", testing.cases(), ids=str)
def test_every_value_may_be_written_to(case: testing.Case, dtype: torch.dtype) -> None:
    """By whatever serves: of a seed with runs there are no kernels."""
    x = case.leaves(tuple(x.to(dtype) for x in case.input()))
    for seed in (1, st.Seed(1, run=2, stride=5)):
        wanted = 2 * case(*x, seed=seed)[0].detach()
        assert torch.equal(case(*x, seed=seed)[0].mul_(2), wanted)
        with disabled():
            wanted = 2 * case(*x, seed=seed)[0].detach()
            assert torch.equal(case(*x, seed=seed)[0].mul_(2), wanted)


def test_saves_nothing() -> None:
    soft = torch.randn(10, requires_grad=True)
    with saved_tensors() as saved:
        st.straight_through(torch.ones(10), soft)
    assert saved == []


def test_higher_order_is_that_of_soft() -> None:
    x = torch.tensor([0.4, -0.9], dtype=torch.float64, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return st.straight_through(x.sign(), x.tanh())

    hessian = torch.autograd.functional.hessian(lambda x: function(x).sum(), x)
    wanted = torch.autograd.functional.hessian(lambda x: x.tanh().sum(), x)
    torch.testing.assert_close(hessian, wanted)
    assert hessian.diagonal().abs().min() > 0.1


def test_forward_mode_and_function_transforms() -> None:
    x, tangent = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)

    def function(x: Tensor) -> Tensor:
        return st.straight_through(x > 0, x.sigmoid())

    value, moved = torch.func.jvp(function, (x,), (tangent,))
    assert value.tolist() == [float(v > 0) for v in x.tolist()]
    slope = x.sigmoid() * (1 - x.sigmoid())
    torch.testing.assert_close(moved, slope * tangent)
    batched = torch.func.vmap(torch.func.grad(lambda x: function(x)))(x)
    torch.testing.assert_close(batched, slope)
    torch.testing.assert_close(torch.func.jacrev(function)(x), torch.diag(slope))
    torch.testing.assert_close(torch.func.jacfwd(function)(x), torch.diag(slope))


def test_no_grad_and_inference_mode() -> None:
    hard, soft = torch.ones(2), torch.zeros(2, requires_grad=True)
    with torch.no_grad():
        assert not st.straight_through(hard, soft).requires_grad
    with torch.inference_mode():
        assert st.straight_through(hard, soft).tolist() == [1, 1]
    assert not st.straight_through(hard, soft.detach()).requires_grad


def test_errors_have_one_base() -> None:
    for error, builtin in [
        (st.DtypeError, TypeError),
        (st.ShapeError, ValueError),
        (st.ArgumentError, ValueError),
    ]:
        assert issubclass(error, st.StraightThroughError)
        assert issubclass(error, builtin)
    assert issubclass(st.StraightThroughError, Exception)


def test_strict_nests_and_ends_with_an_error() -> None:
    row = torch.tensor([NAN, 1.0])
    with st.strict(), st.strict(), pytest.raises(st.ArgumentError):
        st.argmax(row)
    with pytest.raises(ZeroDivisionError), st.strict():
        raise ZeroDivisionError
    assert st.argmax(row).isnan().all()
