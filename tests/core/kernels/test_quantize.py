"""Kernels of quantized integers against their references, bit by bit but for sums."""

import math

import pytest
import torch

import straightthrough as st
from straightthrough.core import kernels
from straightthrough.core.bits import pack
from straightthrough.estimators import LSQ, STE, TQT, LSQPlus
from straightthrough.grids import Int
from straightthrough.ops.quantize import reference
from straightthrough.ops.quantize.operation import FakeQuantize, one_a_row
from straightthrough.testing import DTYPES

pytestmark = pytest.mark.kernels

SHAPES = [((1,), 1), ((77,), 1), ((5000,), 1), ((0, 5), 1), ((6, 32), 6), ((40, 96), 40)]
SHAPES += [((3, 5, 64), 15), ((2, 8192 + 32), 2), ((3, 70_016), 3)]
RANGES = [(-8.0, 7.0), (0.0, 3.0), (-128.0, 127.0), (0.0, 65535.0), (-1.0, 1.0)]


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def inputs(shape, rows, dtype, high):
    """Values within and beyond the range, ties, the ends, and what is no number."""
    generator = torch.Generator().manual_seed(len(shape) + shape[-1])
    scales = (torch.rand(rows, generator=generator) + 0.5) / 4
    x = torch.randn(shape, generator=generator) * high / 8
    flat = x.view(-1)
    special = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e30, 1e-40])
    steps = torch.tensor([0.5, 1.5, -0.5, 2.5, high, high + 0.5, high + 1, -1.0, -1.5])
    put = torch.cat([special, steps * scales[0]])[: len(flat)]
    flat[: len(put)] = put
    if rows > 5:
        scales[2:6] = torch.tensor([0.0, -1.0, math.nan, math.inf])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    grad = torch.randn(shape, generator=generator)
    return x.to(dtype), scales.to(wide), grad.to(dtype)


def assert_bits_same(got, due):
    assert got.dtype == due.dtype
    assert torch.equal(got.isnan(), due.isnan())
    got, due = got.nan_to_num(7), due.nan_to_num(7)
    assert torch.equal(got, due)
    assert torch.equal(got.signbit(), due.signbit())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ends", RANGES, ids=str)
@pytest.mark.parametrize(("shape", "rows"), SHAPES, ids=str)
class TestAgreementOfIntegers:
    def test_values(self, shape, rows, ends, dtype):
        x, scales, _ = inputs(shape, rows, dtype, ends[1])
        assert kernels.has_kernel(x)
        due = reference.integers.__wrapped__(x, scales, *ends)
        assert_bits_same(reference.integers(x, scales, *ends), due)
        for by_value in (False, True):
            found = reference.integers_and_inside(x, scales, *ends, by_value)
            wanted = reference.integers_and_inside.__wrapped__(x, scales, *ends, by_value)
            assert_bits_same(found[0], due)
            assert torch.equal(found[1], wanted[1])

    @pytest.mark.parametrize("by_value", [False, True])
    def test_gradients(self, shape, rows, ends, dtype, by_value):
        x, scales, grad = inputs(shape, rows, dtype, ends[1])
        found = reference.integers_backward(x, grad, scales, *ends, by_value)
        due = reference.integers_backward.__wrapped__(x, grad, scales, *ends, by_value)
        assert_bits_same(found[0], due[0])
        size = reference.integers_backward.__wrapped__(
            x.double(), grad.double().abs(), scales.double(), *ends, by_value
        )[1].abs()
        bound = 1e-5 * (size + grad.double().abs().sum() * ends[1] + 1)
        assert found[1].dtype == torch.float64
        assert bool(((found[1] - due[1]).abs() <= bound).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [0, 1, 9, 64, 1003])
def test_gradients_by_bits_pass_bit_by_bit(count, dtype):
    grad = torch.randn(count).to(dtype)
    grad[:2] = torch.tensor([math.inf, -0.0])[:count]
    inside = torch.rand(count) < 0.6
    found = reference.passed_bits(grad, pack(inside))
    assert_bits_same(found, torch.where(inside, grad, 0))


def test_which_scales_are_one_a_row():
    x = torch.empty(4, 8, 64)
    yes = [(), (1,), (1, 1, 1), (4, 1, 1), (4, 8, 1)]
    no = [(8, 1), (64,), (1, 8, 1), (4, 1, 64), (4, 8, 64)]
    assert all(one_a_row(x, torch.ones(shape)) for shape in yes)
    assert not any(one_a_row(x, torch.ones(shape)) for shape in no)
    assert not one_a_row(torch.empty(4, 33), torch.ones(4, 1))
    assert one_a_row(torch.empty(4, 3, 32), torch.ones(4, 1, 1))


@pytest.mark.parametrize("rule", [STE(), STE("value"), LSQ(), LSQ("code", 0), TQT(), LSQPlus()])
@pytest.mark.parametrize("shape", [(), (6, 1)], ids=str)
def test_an_operator_with_kernels_has_the_gradients_of_the_reference(rule, shape):
    x, grad = torch.randn(6, 64), torch.randn(6, 64)
    scale = torch.rand(shape) / 4 + 0.1
    assert FakeQuantize(Int(3), rule).served(x, scale)

    def pulled():
        leaves = x.clone().requires_grad_(), scale.clone().requires_grad_()
        with torch.enable_grad():
            y = st.fake_quantize(*leaves, grid=Int(3), rule=rule)
        return y.detach(), *torch.autograd.grad(y, leaves, grad)

    found = pulled()
    with kernels.disabled():
        due = pulled()
    assert torch.equal(found[0], due[0])
    assert torch.equal(found[1], due[1])
    torch.testing.assert_close(found[2], due[2], rtol=1e-5, atol=1e-5)
