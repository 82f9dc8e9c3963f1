"""Gradients beyond the range of half precision: its largest number, unless they are infinite."""

import contextlib
import dataclasses
import math

import pytest
import torch

import straightthrough as st
from straightthrough import testing
from straightthrough.core import kernels
from straightthrough.core.precision import narrowed
from straightthrough.surrogates import Clipped, SwishSign, Tanh

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
BY = pytest.mark.parametrize(
    "by", [contextlib.nullcontext, kernels.disabled], ids=["kernels", "reference"]
)
each_case = pytest.mark.parametrize("case", testing.cases(), ids=str)


@HALF
def test_narrowed_by_hand(dtype):
    most = torch.finfo(dtype).max
    values = [0.5, 2 * most, -2 * most, math.inf, -math.inf, math.nan, 1.0]
    wide = torch.tensor(values, dtype=torch.float64)
    wanted = [0.5, most, -most, math.inf, -math.inf, math.nan, 1.0]
    assert narrowed(wide, dtype).tolist() == pytest.approx(wanted, nan_ok=True)
    assert narrowed(wide.to(dtype), dtype).isinf().tolist() == (wide.abs() > most).tolist()


@BY
@pytest.mark.parametrize("count", [1, 5, 100])
@pytest.mark.parametrize("rule", [SwishSign(5.0), Tanh(5.0), Clipped()], ids=str)
def test_surrogates_by_hand(rule, count, by):
    """A slope of 5 at 0, or 1: of 20,000 it makes 100,000, beyond 65,504; of 2,000 10,000."""
    slope = 1 if isinstance(rule, Clipped) else 5
    x = torch.zeros(count, dtype=torch.float16, requires_grad=True)
    with by():
        for grad in (20_000.0, -20_000.0, 2_000.0, math.inf, -math.inf, math.nan):
            y = st.sign(x, surrogate=rule)
            got = torch.autograd.grad(y, x, torch.full_like(x, grad))[0]
            wanted = max(-65504, min(grad * slope, 65504)) if math.isfinite(grad) else grad
            assert got.tolist() == pytest.approx([wanted] * count, nan_ok=True)


@BY
@each_case
def test_the_largest_gradient_stays_finite_and_an_infinite_one_shows(case, by):
    inputs = case.input(8, dtype=torch.float16)
    largest = case.incoming(inputs).sign() * torch.finfo(torch.float16).max
    with by():
        finite = case.backward(inputs, largest)[1]
        assert all(to_one.isfinite().all() for to_one in finite)
        shown = zip(finite, case.backward(inputs, largest * math.inf)[1], strict=True)
        # Some rules have a gradient of 0 to one of the inputs, whatever comes.
        assert not any(infinite.isfinite().any() for held, infinite in shown if held.any())


@dataclasses.dataclass(frozen=True)
class Narrow(st.estimators.CategoricalEstimator):
    """A third party's rule that is of one dtype, whatever it gets."""

    dtype: str

    def gradient(self, logits, index, grad, noise):
        return grad.to(getattr(torch, self.dtype))


@pytest.mark.parametrize(
    ("given", "dtype"), [(torch.float64, "float32"), (torch.float32, "bfloat16")]
)
def test_a_formula_that_computes_in_less_is_told_so(given, dtype):
    logits = torch.zeros(2, 3, dtype=given, requires_grad=True)
    says = rf"must return {given}, which it got, and returned torch\.{dtype}"
    with pytest.raises(st.DtypeError, match=says):
        st.categorical(logits, Narrow(dtype)).sum().backward()
    st.categorical(logits.detach().half().requires_grad_(), Narrow("float32")).sum().backward()
