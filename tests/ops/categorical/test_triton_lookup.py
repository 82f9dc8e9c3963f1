"""The backward of a row that a draw looks up, by Triton's interpreter: one launch of a kernel."""

import pytest
import torch

import straightthrough as st
from devices import Device
from straightthrough.core import gpu, kernels
from straightthrough.core.noise import NOISELESS
from straightthrough.estimators import ReinMax, StraightThrough
from straightthrough.ops.categorical import lookup

pytestmark = pytest.mark.interpreter
OPERATORS = {
    "straight_through_lookup": (lookup.straight_through_lookup, StraightThrough),
    "reinmax_lookup": (lookup.reinmax_lookup, ReinMax),
}
ACCURACY = {torch.float32: 4e-6, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
EVERY = pytest.mark.parametrize("name", OPERATORS)


@pytest.fixture(params=[True, False], ids=["deterministic", "as they come"])
def deterministic(request):
    torch.use_deterministic_algorithms(request.param)
    return request.param


def arguments(rows, classes, depth, dtype):
    """Logits, a table, outcomes and a gradient, with rows that are special."""
    x, table = 3 * torch.randn(rows, classes), torch.randn(classes, depth)
    index, grad = torch.randint(classes, (rows,)), torch.randn(rows, depth)
    x[0], index[0], x[1, 1:], index[1] = torch.nan, -1, -torch.inf, 0
    grad[2, -1] = torch.inf
    return x.to(dtype), table.to(dtype), index, grad.to(dtype)


def exact(rule, tau, x, table, index, grad):
    x, table, grad = (value.double() for value in (x, table, grad))
    with kernels.disabled():
        return lookup.by_blocks(rule(tau), x, table, index, grad, NOISELESS)


@EVERY
@pytest.mark.parametrize("dtype", ACCURACY, ids=str)
@pytest.mark.parametrize("shape", [(7, 3, 5), (70, 16, 1), (33, 65, 64), (40, 500, 20)], ids=str)
@pytest.mark.parametrize("tau", [1.0, 1.3])
def test_gradients(name, shape, dtype, tau, deterministic, launches):
    operator, rule = OPERATORS[name]
    given = arguments(*shape, dtype)
    with torch.no_grad():
        found, wanted = operator(*given, tau), exact(rule, tau, *given)
    assert launches == ["lookup_kernel"]
    for got, due in zip(found, wanted, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got.isfinite(), due.isfinite())
        got, due = got.double().nan_to_num(0, 0, 0), due.nan_to_num(0, 0, 0)
        bound = ACCURACY[dtype] * 1.01 * due.abs().amax(-1, keepdim=True)
        assert ((got - due).abs() <= bound + 1e-7 * (dtype == torch.float16)).all()


@EVERY
def test_it_is_two_launches(name, launches):
    """One fills the table's gradient with 0."""
    torch.use_deterministic_algorithms(False)
    given = arguments(50, 12, 6, torch.float32)
    gpu.loaded("CPU")
    with torch.no_grad(), Device() as device:
        gpu.IMPLEMENTED[name](*given, 1.0)
    of_the_interpreter = {"set_", "copy_"}
    assert device.launched["zeros"] == 1
    assert device.launched.keys() - of_the_interpreter == {"zeros"}
    assert launches == ["lookup_kernel"]


@pytest.mark.parametrize("rule", [StraightThrough(1.3), ReinMax()], ids=repr)
def test_the_operator_takes_it(rule, launches):
    torch.use_deterministic_algorithms(False)
    table = torch.randn(6, 4, requires_grad=True)
    x = torch.randn(2, 6, 5, requires_grad=True)

    def gradients():
        y = st.categorical_lookup(x.movedim(1, -1), table, rule, seed=3)
        return torch.autograd.grad(y, (x, table), torch.ones_like(y))

    found = gradients()
    assert launches[-1] == "lookup_kernel"
    with kernels.disabled():
        wanted = gradients()
    for got, due in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, due)


@EVERY
def test_long_rows_and_double_precision_are_left_to_torch(name, launches):
    operator, rule = OPERATORS[name]
    with torch.no_grad():
        for given in (arguments(9, 520, 3, torch.float32), arguments(9, 5, 3, torch.float64)):
            found, wanted = operator(*given, 1.0), exact(rule, 1.0, *given)
            for got, due in zip(found, wanted, strict=True):
                torch.testing.assert_close(got.double(), due, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert "lookup_kernel" not in launches


def test_a_subclass_with_a_formula_of_its_own_keeps_it(launches):
    class Half(ReinMax):
        def gradient(self, logits, index, grad, noise):
            return 0.5 * super().gradient(logits, index, grad, noise)

    given = arguments(5, 4, 3, torch.float32)
    x, table, index, grad = given
    with torch.no_grad():
        whole, half = (
            lookup.lookup_backward(rule, x, table, index, grad, NOISELESS)[0]
            for rule in (ReinMax(), Half())
        )
    torch.testing.assert_close(half[3:], whole[3:] / 2)
    assert launches.count("lookup_kernel") == 1


def test_no_rows(launches):
    x, table, index, grad = arguments(5, 4, 3, torch.float32)
    with torch.no_grad():
        to_logits, to_table = lookup.reinmax_lookup(x[:0], table, index[:0], grad[:0], 1.0)
    assert to_logits.shape == (0, 4)
    assert (to_table == 0).all()
    assert launches == []


def test_what_is_no_argument_is_refused():
    x, table, index, grad = arguments(5, 4, 3, torch.float32)
    operator = torch.ops.straightthrough.reinmax_lookup
    for wrong, said in (
        ((x, table[:2], index, grad, 1.0), "table"),
        ((x, table, index, grad.double(), 1.0), "grad"),
        ((x, table, index[:2], grad, 1.0), "index"),
        ((x.long(), table, index, grad, 1.0), "logits|input"),
    ):
        with pytest.raises(RuntimeError, match=said):
            operator(*wrong)
