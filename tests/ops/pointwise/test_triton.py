"""The pointwise kernels for GPUs, and those of surrogates, by Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

import straightthrough as st
from straightthrough.core import kernels
from straightthrough.core.registry import RULES
from straightthrough.core.rules import Derivative, Saved

pytest.importorskip("triton")
pytestmark = pytest.mark.interpreter
SURROGATES = [rule.example for rule in RULES.values() if issubclass(rule.type, Derivative)]


@pytest.mark.parametrize("hard", [st.sign, st.heaviside, st.ternary])
@pytest.mark.parametrize("rule", SURROGATES, ids=repr)
def test_an_operator_with_its_gradient_is_two_launches(hard, rule, launches):
    """One where the gradient passes unchanged, three where a window is not seen by forward."""
    arguments = (0.3,) if hard is st.ternary else ()
    grad = torch.linspace(1, 2, 500)
    x = torch.linspace(-3, 3, 500, requires_grad=True)
    hard(x, *arguments, surrogate=rule).backward(grad)
    forward = f"{hard.__name__}, {type(rule).__name__}"
    if rule.saved is Saved.NOTHING:
        assert launches == ["hard_kernel"], forward
    elif rule.saved is Saved.WINDOW:
        first = ["sign_and_window_kernel"] if hard is st.sign else ["hard_kernel", "window_kernel"]
        assert launches == [*first, "window_gradient_kernel"], forward
    elif type(rule).__name__ in kernels.KERNELS:
        assert launches == ["hard_kernel", "derivative_kernel"], forward
    other = x.detach().requires_grad_()
    with kernels.disabled():
        hard(other, *arguments, surrogate=rule).backward(grad)
    torch.testing.assert_close(x.grad, other.grad)


def test_numbers_stay_on_their_device():
    x, grad = torch.randn(50), torch.randn(50)
    for name, numbers in (("heaviside", (0.25,)), ("Atan", (2.0,)), ("window_bits", (0.0, 1.0))):
        operator = getattr(torch.ops.straightthrough, name)
        first = (x, grad) if name == "Atan" else (x,)
        last = (True, False) if name == "window_bits" else ()
        tensors = [torch.tensor(number, dtype=torch.float64) for number in numbers]
        wanted = operator(*first, *numbers, *last)
        assert torch.equal(operator.numbers(*first, *tensors, *last), wanted)


def test_what_is_no_argument_is_refused():
    x = torch.zeros(3, 4)
    operators = torch.ops.straightthrough
    for operator, wrong, said in (
        (operators.sign, (x.long(),), "x must"),
        (operators.Atan, (x, x[:2], 2.0), "grad"),
        (operators.window_bits, (x.long(), 0.0, 1.0, True, False), "x must"),
        (operators.window_gradient, (x, torch.zeros(1, dtype=torch.uint8), 1.0, 0.0), "bits"),
        (operators.window_gradient, (x, torch.zeros(3, dtype=torch.bool), 1.0, 0.0), "bits"),
    ):
        with pytest.raises(RuntimeError, match=said):
            operator(*wrong)
