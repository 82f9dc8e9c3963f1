"""The kernels of codes for GPUs, by Triton's interpreter."""

import math

import pytest
import torch

import straightthrough as st
from straightthrough.core import kernels
from straightthrough.ops.codebook.grid import SLOPES
from straightthrough.ops.codebook.reference import (
    codewords,
    finite_scalars,
    finite_scalars_gradient,
    signs,
    sphere_gradient,
    two_largest,
)
from straightthrough.testing import DTYPES
from straightthrough.testing.compare import assert_bits

triton = pytest.importorskip("straightthrough.ops.codebook.triton")
blocks = pytest.importorskip("straightthrough.core.native.rows")
pytestmark = pytest.mark.interpreter
EVERY = pytest.mark.parametrize("dtype", DTYPES, ids=str)
LEVELS = [[5], [2, 3], [8, 5, 5, 5], [4] * 16, [7] * 20, [1000] * 3, [2**20 + 1, 2**23 - 1]]


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def rows(count, width, dtype):
    """Rows of which some hold NaN, infinities and zeros."""
    z, grad = (2 * torch.randn(count, width)).to(dtype), torch.randn(count, width).to(dtype)
    if count > 8:
        z[1, -1], z[2, 0], z[3], z[4], z[5] = torch.nan, torch.inf, -torch.inf, 0, -0.0
        grad[0, 0], grad[4], grad[8] = torch.inf, torch.finfo(dtype).max, -torch.inf
    return z, grad


def laid(*tensors):
    """The same as they are, and with rows beside each other."""
    yield tensors
    yield tuple(x.T.contiguous().T for x in tensors)


def assert_gradients(got, due, grad):
    """Those of float64, what is beyond the range as its largest number."""
    most = torch.finfo(got.dtype).max
    due = torch.where(grad.isfinite(), due.clamp(-most, most), due).to(got.dtype)
    torch.testing.assert_close(got, due, equal_nan=True)


@EVERY
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("bound", SLOPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_finite_scalars(levels, bound, symmetric, dtype, launches):
    bounds = (levels, SLOPES[bound], symmetric)
    exact = max(levels) < 2**20 or dtype == torch.float64
    for count in (0, 1, 70):
        for z, grad in laid(*rows(count, len(levels), dtype)):
            code, number = finite_scalars(z, *bounds)
            wanted, spelled = finite_scalars.__wrapped__(z, *bounds)
            if exact:
                assert_bits(code, wanted, "code")
                assert_bits(number, spelled, "number")
            else:  # at most one of 2^20 levels apart
                torch.testing.assert_close(code, wanted, rtol=0, atol=2.0**-19, equal_nan=True)
            due = finite_scalars_gradient.__wrapped__(z.double(), grad.double(), *bounds)
            assert_gradients(finite_scalars_gradient(z, grad, *bounds), due, grad)
    assert set(launches) == {"finite_scalars_kernel", "finite_scalars_backward_kernel"}
    assert len(launches) == 12


@EVERY
@pytest.mark.parametrize("width", [1, 3, 33, 64, 200])
@pytest.mark.parametrize("ties", [False, True])
def test_two_largest(width, ties, dtype, launches, monkeypatch):
    x = torch.randn(9, width).to(dtype)
    x = x.round() + 0.0 if ties else x  # either zero may be the largest
    x[1, width // 2], x[2], x[3, -1], x[4, 0] = torch.nan, -torch.inf, torch.inf, torch.inf
    for long in (False, True):
        if long:
            monkeypatch.setattr(blocks, "LONGEST", 0)
            monkeypatch.setattr(blocks, "BLOCK", 32)
        for (scores,) in laid(x):
            found = zip(two_largest(scores), two_largest.__wrapped__(scores), strict=True)
            for got, due in found:
                assert_bits(got, due, f"long: {long}")
    assert launches == ["two_largest_short"] * 2 + ["two_largest_long"] * 2


@EVERY
@pytest.mark.parametrize("width", [1, 5, 16, 33, 63])
def test_signs(width, dtype, launches):
    for size in (1.0, 1 / math.sqrt(width)):
        for (z,) in laid(rows(70, width, dtype)[0]):
            for got, due in zip(signs(z, size), signs.__wrapped__(z, size), strict=True):
                assert_bits(got, due, "signs")
    assert launches == ["signs_kernel"] * 4


@EVERY
@pytest.mark.parametrize("width", [1, 5, 16, 100])
def test_gradient_of_the_sphere(width, dtype, launches, monkeypatch):
    z, grad = rows(70, width, dtype)
    z[6], z[7] = torch.finfo(dtype).max / 4, z[7] * torch.finfo(dtype).tiny
    for x, g in laid(z, grad):
        due = sphere_gradient.__wrapped__(x.double(), g.double())
        assert_gradients(sphere_gradient(x, g), due, g)
    assert launches == ["sphere_backward_kernel"] * 2
    monkeypatch.setattr(triton, "fits_a_tile", lambda *_: False)
    assert_bits(sphere_gradient(z, grad), sphere_gradient.__wrapped__(z, grad), "a long row")


@EVERY
@pytest.mark.parametrize("width", [1, 7, 70])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (30, 4)], ids=str)
def test_codewords(shape, width, dtype, launches):
    table, numbers = torch.randn(9, width).to(dtype), torch.randint(-1, 9, shape)
    table[3] = torch.nan
    for of in (table, table.T.contiguous().T):
        assert_bits(codewords(of, numbers), codewords.__wrapped__(of, numbers), "codewords")
    assert launches == ["codewords_kernel"] * 2
    beyond = torch.tensor([9, -2, 2**40, 1])  # the CPU refuses them, and reads them to do so
    assert torch.equal(codewords(table, beyond).isnan().all(-1), beyond != 1)


@pytest.mark.parametrize(
    ("call", "forward"),
    [
        (lambda z: st.fsq(z, [8, 5, 5, 5]), "finite_scalars"),
        (st.lfq, "signs"),
        (st.bsq, "signs"),
    ],
    ids=["fsq", "lfq", "bsq"],
)
def test_an_operator_is_a_launch_each_way(call, forward, launches):
    z, grad = rows(70, 4, torch.float32)
    given, other = z.requires_grad_(), z.clone().requires_grad_()
    with torch.enable_grad():
        call(given)[0].backward(grad)
        assert launches[:1] == [f"{forward}_kernel"]
        assert len(launches) <= 2
        with kernels.disabled():
            call(other)[0].backward(grad)
    torch.testing.assert_close(given.grad, other.grad, equal_nan=True)


def test_what_is_no_argument_is_refused():
    operators, x = torch.ops.straightthrough, torch.zeros(3, 4)
    for operator, wrong, said in (
        (operators.finite_scalars, (x, [5] * 3, 1.0, False), "levels must be one an entry"),
        (operators.finite_scalars, (x, [5, 5, 5, 1], 1.0, False), "levels must lie in"),
        (operators.finite_scalars, (x.new_zeros(2, 64), [2] * 64, 1.0, False), "at most 63"),
        (operators.finite_scalars_gradient, (x, x[:2], [5] * 4, 1.0, False), "grad must"),
        (operators.two_largest, (x.long(),), "scores must"),
        (operators.signs, (torch.zeros(2, 64), 1.0), "at most 63"),
        (operators.signs, (x.long(), 1.0), "z must"),
        (operators.sphere_gradient, (x, x.double()), "grad must"),
        (operators.codewords, (x, x), "numbers int64"),
    ):
        with pytest.raises(RuntimeError, match=said):
            operator(*wrong)
