"""The eight pointwise operators: values by hand, bits, ties, gradients, errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core import kernels
from straightthrough.core.errors import FLOATING
from straightthrough.core.registry import RULES
from straightthrough.core.rules import Derivative
from straightthrough.ops.pointwise.operation import Pointwise
from straightthrough.surrogates import Atan, Clipped, Identity, Rectangle, Sigmoid, Tanh
from straightthrough.testing.values import saved_tensors

NAN, INFINITY = math.nan, math.inf
Operator = Callable[..., Tensor]
DTYPES = pytest.mark.parametrize("dtype", FLOATING)

# x and the value, by hand; -0.0 and NaN are compared as such.
VALUES: list[tuple[Operator, list[tuple[float, float]]]] = [
    (
        st.sign,
        [
            (-2.0, -1.0),
            (-0.0, 1.0),
            (0.0, 1.0),
            (0.5, 1.0),
            (NAN, NAN),
            (INFINITY, 1.0),
            (-INFINITY, -1.0),
        ],
    ),
    (
        st.heaviside,
        [
            (-2.0, 0.0),
            (-0.0, 0.0),
            (0.0, 0.0),
            (0.5, 1.0),
            (NAN, NAN),
            (INFINITY, 1.0),
            (-INFINITY, 0.0),
        ],
    ),
    (
        st.round,
        [
            (-2.5, -2.0),
            (-1.5, -2.0),
            (-0.5, -0.0),
            (-0.0, -0.0),
            (0.5, 0.0),
            (1.5, 2.0),
            (2.5, 2.0),
            (2.75, 3.0),
            (NAN, NAN),
            (INFINITY, INFINITY),
            (-INFINITY, -INFINITY),
        ],
    ),
    (
        st.floor,
        [(-1.5, -2.0), (-0.5, -1.0), (-0.0, -0.0), (0.75, 0.0), (2.0, 2.0), (NAN, NAN)],
    ),
    (st.ceil, [(-1.5, -1.0), (-0.5, -0.0), (0.25, 1.0), (2.0, 2.0), (NAN, NAN)]),
    (st.trunc, [(-1.5, -1.0), (-0.5, -0.0), (1.75, 1.0), (2.0, 2.0), (NAN, NAN)]),
    (
        lambda x, **rule: st.clamp(x, -1.0, 0.5, **rule),
        [
            (-2.0, -1.0),
            (-1.0, -1.0),
            (-0.0, -0.0),
            (0.25, 0.25),
            (0.5, 0.5),
            (3.0, 0.5),
            (NAN, NAN),
            (INFINITY, 0.5),
            (-INFINITY, -1.0),
        ],
    ),
    (
        lambda x, **rule: st.ternary(x, 0.5, **rule),
        [
            (-2.0, -1.0),
            (-0.5, 0.0),
            (-0.0, 0.0),
            (0.25, 0.0),
            (0.5, 0.0),
            (0.75, 1.0),
            (NAN, NAN),
            (INFINITY, 1.0),
            (-INFINITY, -1.0),
        ],
    ),
]
NAMES = ["sign", "heaviside", "round", "floor", "ceil", "trunc", "clamp", "ternary"]
EVERY = pytest.mark.parametrize(("operator", "values"), VALUES, ids=NAMES)


def bits(x: Tensor) -> list[int]:
    """The bits, so that -0.0 is not 0.0 and a NaN equals a NaN (of any payload)."""
    widths = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.masked_fill(x.isnan(), 77.0).view(widths[x.element_size()]).flatten().tolist()


def gradient(y: Tensor, x: Tensor, grad: Tensor | None = None) -> Tensor:
    return torch.autograd.grad(y, x, torch.ones_like(y) if grad is None else grad)[0]


@EVERY
@DTYPES
def test_values_by_hand(
    operator: Operator, values: list[tuple[float, float]], dtype: torch.dtype
) -> None:
    x, wanted = torch.tensor(values, dtype=dtype).T.contiguous()
    y = operator(x)
    assert y.dtype == dtype
    assert bits(y) == bits(wanted)


@EVERY
@DTYPES
def test_gradient_is_grad_times_derivative(
    operator: Operator, values: list[tuple[float, float]], dtype: torch.dtype
) -> None:
    x = torch.tensor([-2.0, -0.75, 0.0, 0.25, 1.0, 3.0], dtype=dtype, requires_grad=True)
    grad = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, -1.0], dtype=dtype)
    got = gradient(operator(x, surrogate=Tanh(0.5)), x, grad)
    # .5 sech^2(x / 2), by the standard library
    wanted = [
        g * 0.5 / math.cosh(v / 2) ** 2 for g, v in zip(grad.tolist(), x.tolist(), strict=True)
    ]
    eps = torch.finfo(dtype).eps
    assert got.dtype == dtype
    assert got.tolist() == pytest.approx(wanted, rel=max(eps, 1e-15), abs=1e-15)


EVERY_RULE = [record.example for record in RULES.values() if issubclass(record.type, Derivative)]


@EVERY
@pytest.mark.parametrize("serve", [nullcontext, kernels.disabled], ids=["kernels", "reference"])
def test_nan_has_a_gradient_of_nan(
    operator: Operator, values: list[tuple[float, float]], serve: Callable[[], Any]
) -> None:
    """And no other element has, however vectors and bytes lie; the identity hands on."""
    nan = torch.zeros(41, dtype=torch.bool)
    nan[[0, 7, 8, 30, 40]] = True
    for dtype, rule in itertools.product(FLOATING, EVERY_RULE):
        x = torch.linspace(-2, 2, 41).to(dtype).masked_fill(nan, NAN).requires_grad_()

        def slope(x: Tensor, rule: Derivative = rule) -> Tensor:
            return torch.func.grad(lambda x: operator(x, surrogate=rule))(x)

        with serve():
            y = operator(x, surrogate=rule)
            eager = gradient(y, x)
            mapped = torch.vmap(slope)(x.detach())
        assert y.isnan().equal(nan)
        for got in (eager, mapped):
            assert got.isnan().equal(nan) if rule != Identity() else got.eq(1).all(), (rule, dtype)


@pytest.mark.kernels  # there is a compiler then
@pytest.mark.parametrize("serve", [nullcontext, kernels.disabled], ids=["kernels", "reference"])
def test_nan_in_graphs(serve: Callable[[], Any]) -> None:
    def function(x: Tensor) -> Tensor:
        step = st.heaviside(x, 0.3, surrogate=Rectangle())
        return torch.stack([st.sign(x), 2 * step, 4 * st.ternary(x, 0.3)])

    x = torch.linspace(-2, 2, 41)
    x[[0, 7, 30, 40]] = NAN
    with serve():
        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True)
        exported = torch.export.export(Applied(function), (x.requires_grad_(),)).module()
        for way in (compiled, exported):
            for given in (x, x.detach().nan_to_num(0.5).requires_grad_()):
                got, due = way(given), function(given)
                assert bits(got) == bits(due)
                assert bits(gradient(got, given)) == bits(gradient(due, given))


class Applied(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize("operator", [st.sign, lambda x: st.ternary(x, 0.5)], ids=["sign", "tern"])
def test_a_window_saves_a_bit_an_element_and_a_second_where_there_is_nan(
    operator: Operator,
) -> None:
    x = torch.linspace(-2, 2, 41, requires_grad=True)
    for given, due in ((x, 6), (torch.where(x == 2, NAN, x), 12)):
        with saved_tensors() as saved:
            operator(given)
        assert [(t.dtype, t.nbytes) for t in saved] == [(torch.uint8, due)]


@pytest.mark.parametrize(
    ("operator", "default"),
    [
        (st.sign, Clipped(1)),
        (st.heaviside, Sigmoid(4)),
        (st.round, Identity()),
        (st.floor, Identity()),
        (st.ceil, Identity()),
        (st.trunc, Identity()),
        (lambda x, **rule: st.clamp(x, -1, 1, **rule), Identity()),
        (lambda x, **rule: st.ternary(x, 0.5, **rule), Clipped(1)),
    ],
    ids=NAMES,
)
def test_default_surrogates(operator: Operator, default: object) -> None:
    x = torch.linspace(-2, 2, 33, dtype=torch.float64, requires_grad=True)
    assert torch.equal(gradient(operator(x), x), gradient(operator(x, surrogate=default), x))
    slopes = {
        Clipped(1): lambda v: float(abs(v) <= 1),
        Sigmoid(4): lambda v: 1 / math.cosh(2 * v) ** 2,  # 4 s (1 - s)
        Identity(): lambda v: 1.0,
    }
    wanted = [slopes[default](v) for v in x.tolist()]  # type: ignore[index]  # rules hash
    assert gradient(operator(x), x).tolist() == pytest.approx(wanted, rel=1e-12)


def test_what_people_come_with() -> None:
    """Sign with tanh, step with sigmoid, x > 0 with the identity, round with the identity."""
    x = torch.tensor([-1.5, -0.25, 0.5, 2.5], dtype=torch.float64, requires_grad=True)
    grad = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for y, value, soft in [
        (st.sign(x, surrogate="tanh"), [-1, -1, 1, 1], torch.tanh(x)),
        (st.heaviside(x, surrogate="sigmoid"), [0, 0, 1, 1], torch.sigmoid(4 * x)),
        (st.heaviside(x, surrogate="identity"), [0, 0, 1, 1], x),
        (st.round(x), [-2, 0, 0, 2], x),
    ]:
        assert y.tolist() == value
        torch.testing.assert_close(gradient(y, x, grad), gradient(soft * 1, x, grad))


@DTYPES
def test_heaviside_threshold(dtype: torch.dtype) -> None:
    """It is exclusive, and the surrogate is evaluated at x - threshold in float32 or better."""
    x = torch.tensor([-0.5, 0.25, 0.3125, 2.0, 100.0], dtype=dtype, requires_grad=True)
    y = st.heaviside(x, 0.25, surrogate=Atan(2.0))
    assert y.tolist() == [0, 0, 1, 1, 1]
    wanted = [1 / (1 + (math.pi * (v - 0.25)) ** 2) for v in x.tolist()]
    half = 0.51 * torch.finfo(dtype).eps  # the rounding of the result alone
    got = gradient(y, x)
    assert got.dtype == dtype
    assert got.tolist() == pytest.approx(wanted, rel=max(half, 1e-6), abs=3e-8)


@pytest.mark.parametrize(
    ("threshold", "got"),
    [(torch.ones(4, 1), r"of shape \(4, 1\)"), (torch.ones((), requires_grad=True), "no gradient")],
)
def test_a_threshold_of_several_or_that_learns_is_taken_off_before(threshold, got) -> None:
    x = torch.linspace(-1, 3, 8).expand(4, 8)
    says = rf"{got}.* take it off before, heaviside\(x - threshold\)"
    with pytest.raises(st.ArgumentError, match=says):
        st.heaviside(x, threshold)
    assert torch.equal(st.heaviside(x - threshold), st.heaviside(x, 1.0))


def test_heaviside_threshold_in_half_precision_is_not_rounded_first() -> None:
    """In bf16, 3.984375 - 0.3 would be rounded to 3.6875, which is off by 0.003."""
    x = torch.tensor([3.984375], dtype=torch.bfloat16, requires_grad=True)
    got = gradient(st.heaviside(x, 0.3, surrogate=Sigmoid(8.0)), x).item()
    exact = 8 / (2 * math.cosh(4 * 3.684375)) ** 2
    assert got == pytest.approx(exact, rel=2**-9)


def test_clamp_still_learns_where_it_saturates() -> None:
    x = torch.tensor([-3.0, 0.0, 3.0], requires_grad=True)
    assert gradient(st.clamp(x, -1, 1), x).tolist() == [1, 1, 1]
    assert gradient(st.clamp(x, -1, 1, surrogate="clipped"), x).tolist() == [0, 1, 0]


def test_clamp_to_one_point() -> None:
    assert st.clamp(torch.tensor([-1.0, 5.0]), 2, 2).tolist() == [2, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_bound_beyond_the_range_of_the_dtype_is_infinite(dtype: torch.dtype) -> None:
    x = torch.tensor([-INFINITY, -3.0, 2.0, INFINITY, NAN], dtype=dtype)
    beyond = 2 * torch.finfo(dtype).max
    torch.testing.assert_close(st.clamp(x, -beyond, beyond), x, rtol=0, atol=0, equal_nan=True)
    assert st.clamp(x, -1, 10**40).tolist()[:4] == [-1, -1, 2, INFINITY]


@EVERY
def test_identity_saves_nothing_and_others_the_input(
    operator: Operator, values: list[tuple[float, float]]
) -> None:
    x = torch.randn(5, requires_grad=True)
    with saved_tensors() as saved:
        operator(x, surrogate="identity")
        assert saved == []
        operator(x, surrogate="tanh")
    assert [tensor.data_ptr() for tensor in saved] == [x.data_ptr()]


@EVERY
def test_second_derivative_is_that_of_the_surrogate(
    operator: Operator, values: list[tuple[float, float]]
) -> None:
    x = torch.tensor([-0.7, 0.3, 1.2], dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(operator(x, surrogate="tanh").sum(), x, create_graph=True)[0]
    second = gradient(first, x)
    # (tanh)'' = -2 tanh sech^2
    wanted = [-2 * math.tanh(v) / math.cosh(v) ** 2 for v in x.tolist()]
    assert second.tolist() == pytest.approx(wanted, rel=1e-12)


@EVERY
def test_forward_mode_is_the_same_slope(
    operator: Operator, values: list[tuple[float, float]]
) -> None:
    x = torch.tensor([-0.7, 0.3, 1.2], dtype=torch.float64)
    tangent = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    value, moved = torch.func.jvp(lambda x: operator(x, surrogate="tanh"), (x,), (tangent,))
    assert torch.equal(value, operator(x))
    wanted = [t / math.cosh(v) ** 2 for t, v in zip(tangent.tolist(), x.tolist(), strict=True)]
    assert moved.tolist() == pytest.approx(wanted, rel=1e-12)


@EVERY
def test_errors_of_every_operator(operator: Operator, values: list[tuple[float, float]]) -> None:
    with pytest.raises(st.DtypeError, match=r"x must be float16.*got torch\.int64"):
        operator(torch.arange(3))
    with pytest.raises(st.DtypeError, match="must be a tensor, got float"):
        operator(1.0)
    with pytest.raises(st.ArgumentError, match="did you mean 'tanh'"):
        operator(torch.zeros(1), surrogate="than")
    with pytest.raises(st.ArgumentError, match=r"known: .*identity.*super_spike"):
        operator(torch.zeros(1), surrogate=st.estimators.ReinMax())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: st.heaviside(x, NAN), "threshold must be a finite number"),
        (lambda x: st.ternary(x, -0.1), "threshold must be at least 0"),
        (lambda x: st.ternary(x, INFINITY), "threshold must be a finite number"),
        (lambda x: st.clamp(x, 1, 0), "min must be at most max"),
        (lambda x: st.clamp(x, -INFINITY, 0), "min must be a finite number"),
        (lambda x: st.clamp(x, 0, NAN), "max must be a finite number"),
    ],
)
def test_errors_of_arguments(call: Operator, message: str) -> None:
    with pytest.raises(st.ArgumentError, match=message):
        call(torch.zeros(2))


def test_nothing_is_kept_where_no_gradient_is_due(monkeypatch):
    asked = []

    def counted(name, method):
        def call(*arguments):
            asked.append(name)
            return method(*arguments)

        return call

    for name in ("forward_and_save", "residuals"):
        monkeypatch.setattr(Pointwise, name, counted(name, getattr(Pointwise, name)))
    x = torch.linspace(-2, 2, 12).reshape(3, 4)
    leaf = x.clone().requires_grad_()
    st.sign(x)
    torch.vmap(st.sign)(x)
    with torch.no_grad():
        st.sign(leaf)
    assert not asked
    st.sign(leaf)
    assert asked in (
        ["forward_and_save"],
        ["forward_and_save", "residuals"],
    )  # a kernel does both at once
