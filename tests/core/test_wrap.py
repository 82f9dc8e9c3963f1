"""wrap: soft runs in backward only, under the random state of the forward."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import straightthrough as st


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        self.calls += 1
        return self.function(*args, **kwargs)


def bits(x: Tensor) -> list[int]:
    return x.detach().view(torch.int32).tolist()


def test_soft_runs_first_in_backward_and_once() -> None:
    hard, soft = Counted(torch.sign), Counted(torch.tanh)
    sign = st.wrap(hard, soft)
    x = torch.tensor([0.5, -2.0], requires_grad=True)
    y = sign(x)
    assert (hard.calls, soft.calls) == (1, 0)
    y.sum().backward()
    assert (hard.calls, soft.calls) == (1, 1)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 1 - x.detach().tanh() ** 2)
    with torch.no_grad():
        sign(x)
    sign(x.detach())
    assert (hard.calls, soft.calls) == (3, 1)


def test_value_is_hards_bit_for_bit() -> None:
    values = torch.tensor([-0.0, 0.0, float("inf"), -float("inf"), float("nan"), 1 / 3])
    keep = st.wrap(lambda x: x * 1, lambda x: x * 1e30)
    assert bits(keep(values)) == bits(values)


@pytest.mark.parametrize("hard", [lambda x: x > 0, lambda x: (x > 0).int(), lambda x: (x > 0) * 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_bool_and_integer_values_take_the_inputs_dtype(hard, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]  # lambdas
    x = torch.tensor([0.0, 2.0], dtype=dtype, requires_grad=True)
    y = st.wrap(hard, torch.sigmoid)(x)
    assert (y.tolist(), y.dtype) == ([0, 1], dtype)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad[0] == 0.25


def test_as_a_decorator() -> None:
    def relaxed(x: Tensor, width: float = 1.0) -> Tensor:
        return torch.tanh(x / width)

    @st.wrap(soft=relaxed)
    def ternary(x: Tensor, width: float = 1.0) -> Tensor:
        """Three levels."""
        return torch.sign(x) * (x.abs() > width)

    assert (ternary.__name__, ternary.__doc__) == ("ternary", "Three levels.")
    x = torch.tensor([0.5, 3.0], requires_grad=True)
    y = ternary(x, width=2.0)
    assert y.tolist() == [0, 1]
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (1 - torch.tanh(x.detach() / 2) ** 2) / 2)


def test_keywords_and_nested_arguments_get_gradients() -> None:
    def hard(pair: list[Tensor], *, extra: dict[str, Tensor | str], scale: float) -> Tensor:
        return torch.round(pair[0] * pair[1] + scale * extra["shift"])

    def soft(pair: list[Tensor], *, extra: dict[str, Tensor | str], scale: float) -> Tensor:
        return pair[0] * pair[1] + scale * extra["shift"]

    a, b, c = (torch.tensor([v], requires_grad=True) for v in (1.5, 3.0, 0.2))
    y = st.wrap(hard, soft)([a, b], extra={"shift": c, "name": "not a tensor"}, scale=2.0)
    assert y.tolist() == [5.0]  # round(4.9)
    gradients = torch.autograd.grad(y, (a, b, c))
    assert [g.item() for g in gradients] == [3.0, 1.5, 2.0]


def test_integer_arguments_pass_through_without_gradient() -> None:
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    pick = st.wrap(lambda t, i: t[i].round(), lambda t, i: t[i] ** 2)
    pick(table, torch.tensor(1)).sum().backward()
    assert table.grad is not None
    assert table.grad.tolist() == [[0, 0], [6, 8]]


def test_both_functions_see_the_same_random_state() -> None:
    """The noise of forward is drawn again in backward, and the stream outside goes on."""
    drawn: list[Tensor] = []

    def noisy(x: Tensor) -> Tensor:
        drawn.append(torch.rand(3))
        return x + drawn[-1]

    operator = st.wrap(lambda x: (noisy(x) > 0.5).float(), noisy)
    x = torch.zeros(3, requires_grad=True)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    y = operator(x)
    between = torch.rand(3)
    y.sum().backward()
    after = torch.rand(3)
    assert torch.equal(drawn[0], expected)
    assert torch.equal(drawn[1], expected)
    torch.manual_seed(5)
    torch.rand(3)
    assert torch.equal(torch.rand(3), between)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize("default", [False, True])
def test_a_generator_among_the_arguments_draws_the_same_noise_again(default: bool) -> None:
    generator = torch.default_generator if default else torch.Generator()
    gate = st.wrap(
        lambda x, generator: torch.rand(3, generator=generator) < x,
        lambda x, generator: x * torch.rand(3, generator=generator),
    )
    drawn, then = torch.rand(2, 3, generator=generator.manual_seed(5))
    x = torch.full((3,), 0.5, requires_grad=True)
    y = gate(x, generator.manual_seed(5))
    (found,) = torch.autograd.grad(y.sum(), x)
    assert y.tolist() == (drawn < 0.5).tolist()
    assert torch.equal(found, drawn)
    assert torch.equal(torch.rand(3, generator=generator), then)
    generator.manual_seed(5)
    assert torch.equal(torch.func.grad(lambda x: gate(x, generator).sum())(x.detach()), drawn)


def test_on_the_meta_device() -> None:
    x = torch.empty(3, device="meta", requires_grad=True)
    y = st.wrap(lambda x: x > 0, torch.sigmoid)(x)
    y.sum().backward()
    assert y.is_meta
    assert x.grad is not None
    assert x.grad.is_meta


def test_random_state_is_put_back_when_soft_raises() -> None:
    def broken(x: Tensor) -> Tensor:
        torch.rand(1)
        raise ZeroDivisionError

    x = torch.zeros(1, requires_grad=True)
    y = st.wrap(torch.sign, broken)(x)
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        y.sum().backward()
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_inside() -> None:
    """The entries that forward dropped are those whose gradient is 0."""
    operator = st.wrap(
        lambda x: torch.sign(F.dropout(x, 0.5)), lambda x: torch.tanh(F.dropout(x, 0.5))
    )
    x = torch.full((1000,), 0.3, requires_grad=True)
    y = operator(x)
    y.sum().backward()
    assert 400 < int((y == 0).sum()) < 600
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y == 0)


def test_two_backwards_are_the_same() -> None:
    operator = st.wrap(torch.round, lambda x: x * torch.rand(4))
    x = torch.ones(4, requires_grad=True)
    y = operator(x)
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    torch.rand(9)
    assert torch.equal(first, torch.autograd.grad(y.sum(), x)[0])


def test_double_backward_is_that_of_soft() -> None:
    x = torch.tensor([0.4, -0.9], dtype=torch.float64, requires_grad=True)
    y = st.wrap(torch.sign, torch.tanh)(x)
    first = torch.autograd.grad(y.sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x)[0]
    t = x.detach().tanh()
    torch.testing.assert_close(second, -2 * t * (1 - t**2))


def test_forward_mode() -> None:
    x, tangent = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    value, moved = torch.func.jvp(st.wrap(torch.sign, torch.tanh), (x,), (tangent,))
    assert torch.equal(value, x.sign())
    torch.testing.assert_close(moved, (1 - x.tanh() ** 2) * tangent)


def test_vmap_equals_the_loop() -> None:
    def loss(x: Tensor, w: Tensor) -> Tensor:
        return st.wrap(lambda x, w: (x @ w).sign(), lambda x, w: (x @ w).tanh())(x, w).sum()

    x = torch.randn(6, 3, dtype=torch.float64)
    w = torch.randn(3, 2, dtype=torch.float64)
    batched = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, None))(x, w)
    for i, row in enumerate(x):
        for got, wanted in zip(batched, torch.func.grad(loss, argnums=(0, 1))(row, w), strict=True):
            torch.testing.assert_close(got[i], wanted)


@pytest.mark.parametrize(
    "hard",
    [lambda x: x, lambda x: x[:2], lambda x: x.view(3), lambda x: x.detach(), lambda x: x.data],
)
def test_a_hard_that_returns_its_input_is_copied(hard) -> None:  # type: ignore[no-untyped-def]  # lambdas
    """So that writing into the value does not write into the argument."""
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    operator = st.wrap(hard, lambda x: 2 * x[: len(hard(x))])
    with torch.no_grad():
        operator(x).mul_(5)
    y = operator(x)
    y.mul_(5)
    assert x.tolist() == [1, 2, 3]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad[:2].tolist() == [10, 10]


def test_a_hard_that_returns_what_another_holds_leaves_it_alone() -> None:
    """A buffer became part of the graph, and a module with it could not be copied."""
    module = nn.Module()
    module.register_buffer("table", torch.ones(3))
    operator = st.wrap(lambda x: module.table, lambda x: 2 * x)
    x = torch.zeros(3, requires_grad=True)
    operator(x).mul_(5).sum().backward()
    with torch.no_grad():
        operator(x).mul_(5)
    assert x.grad is not None
    assert x.grad.tolist() == [10, 10, 10]
    assert not module.table.requires_grad
    assert copy.deepcopy(module).table.tolist() == [1, 1, 1]


def test_a_value_that_nothing_else_holds_is_not_copied() -> None:
    made: list[int] = []

    def hard(x: Tensor) -> Tensor:
        y = torch.sign(x)
        made.append(y.data_ptr())
        return y

    operator = st.wrap(hard, torch.tanh)
    with torch.no_grad():
        assert operator(torch.ones(3)).data_ptr() == made.pop()
    assert operator(torch.ones(3, requires_grad=True)).data_ptr() == made.pop()


def test_inside_a_module_that_is_copied() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.step = st.wrap(lambda x: x > 0, torch.sigmoid)

        def forward(self, x: Tensor) -> Tensor:
            return self.step(self.linear(x))

    net = Net()
    twin = copy.deepcopy(net)
    x = torch.randn(5, 3)
    for module in (net, twin):
        module(x).sum().backward()
    assert torch.equal(net(x), twin(x))
    assert net.linear.weight.grad is not None
    assert torch.equal(net.linear.weight.grad, twin.linear.weight.grad)
    assert net.linear.weight.grad.abs().sum() > 0


# Errors.


def test_missing_soft() -> None:
    with pytest.raises(st.ArgumentError, match=r"@st\.wrap\(soft=soft\)"):
        st.wrap(torch.sign)


def test_what_is_no_function_is_refused_at_once() -> None:
    x = torch.randn(2)
    with pytest.raises(st.ArgumentError, match=r"soft must be a function of.* got Tensor"):
        st.wrap(torch.sign, torch.tanh(x))
    with pytest.raises(st.ArgumentError, match=r"hard must be a function of.* got Tensor"):
        st.wrap(x.sign(), torch.tanh)
    with pytest.raises(st.ArgumentError, match="soft must be a function of the arguments, got str"):
        st.wrap(soft="tanh")


def test_dicts_of_other_keys() -> None:
    x = torch.randn(2, requires_grad=True)
    y = st.wrap(lambda x: {"a": x, "b": x}, lambda x: {"b": x, "a": x})(x)
    with pytest.raises(st.ArgumentError, match=r"dict of 'b', 'a' where .* dict of 'a', 'b'"):
        y["a"].sum().backward()


def test_no_tensor() -> None:
    with pytest.raises(st.ArgumentError, match="at least one tensor among its arguments"):
        st.wrap(torch.sign, torch.tanh)(1.0)


def test_a_function_that_returns_no_tensor() -> None:
    def number(x: Tensor) -> float:
        return 1.0

    def pair(x: Tensor) -> tuple[Tensor, None]:
        return x, None

    x = torch.zeros(2, requires_grad=True)
    for wrong, got in ((number, "float"), (pair, "NoneType")):
        says = f"{wrong.__name__} must return a tensor, or a tuple, list or dict of them, got {got}"
        with pytest.raises(st.ArgumentError, match=says):
            st.wrap(wrong, torch.tanh)(x)
        with pytest.raises(st.ArgumentError, match=says):
            st.wrap(torch.sign, wrong)(x).sum().backward()


def test_shapes_that_differ() -> None:
    x = torch.zeros(2, requires_grad=True)
    y = st.wrap(torch.sign, lambda x: x.sum())(x)
    with pytest.raises(st.ShapeError, match=r"soft returned shape \(\) where hard returned \(2,\)"):
        y.sum().backward()


def test_a_soft_function_without_floats_has_no_gradient_to_give() -> None:
    x = torch.randn(3, requires_grad=True)
    y = st.wrap(torch.sigmoid, lambda x: x > 0)(x)  # the two the wrong way round
    says = r"the value of soft must be .* got torch\.bool; return floats, or swap hard and soft"
    with pytest.raises(st.DtypeError, match=says):
        y.sum().backward()


def test_a_hard_that_writes_to_what_gets_a_gradient() -> None:
    """Soft would see what hard made of it; what gets none, as running statistics, may change."""
    step = st.wrap(lambda x, seen: x.sign() + 0 * seen.add_(1), lambda x, seen: x.tanh())
    x, seen = torch.tensor([0.5], requires_grad=True), torch.zeros(1)
    step(x, seen).backward()
    assert seen == 1
    writes = st.wrap(lambda x: x.clamp_(0), lambda x: x.tanh())
    with pytest.raises(st.ArgumentError, match="hard wrote to an argument that gets a gradient"):
        writes(2 * x)


def test_a_complex_value_is_refused_and_not_cut_to_its_real_part() -> None:
    operator = st.wrap(lambda x: torch.complex(x.round(), x), lambda x: torch.complex(x, x))
    for run in (operator, torch.func.vmap(operator)):
        with pytest.raises(
            st.DtypeError, match=r"must be real, got torch\.complex64; return torch"
        ):
            run(torch.ones(2))


def test_traced_without_values_it_says_what_to_use() -> None:
    with pytest.raises(st.StraightThroughError, match=r"symbolic_trace.*torch\.export"):
        torch.fx.symbolic_trace(lambda x: st.wrap(torch.sign, torch.tanh)(x))


def test_integers_without_a_floating_argument() -> None:
    with pytest.raises(st.DtypeError, match="no argument is floating"):
        st.wrap(lambda x: x + 1, lambda x: x.float())(torch.tensor([1]))
