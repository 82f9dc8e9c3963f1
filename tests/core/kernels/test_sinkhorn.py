"""The gradient of Sinkhorn's iterations by scales, and where these end by logarithms."""

import math

import pytest
import torch
from torch import Tensor

from straightthrough.core import kernels
from straightthrough.ops.permutation.reference import sinkhorn_gradient
from straightthrough.testing import DTYPES

pytestmark = pytest.mark.kernels

NAN, INFINITY = math.nan, math.inf
EXACT = 1e4  # spans beyond it are those of scores of two values
SIZES = pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 16, 17, 33, 70])
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def bound(squares: Tensor, grad: Tensor, tau: float, iterations: int) -> Tensor:
    """What rounding may part two results by, in float64.

    A scaling rounds sums of n products, an exponential and a quotient, n + 4 roundings both there
    and back. Later ones don't enlarge that: a logsumexp moves by no more than what it is of, and
    sums of a gradient over columns of sum 1 don't grow. Differences of scores are rounded as well,
    by their span, once for their rows and once for their columns, unless they are of two values.
    """
    x = torch.where(squares.isfinite(), squares.double(), torch.nan) / 2
    span = 2 * (x - x.nan_to_num(-INFINITY).amax(-1, keepdim=True)).nan_to_num(0, 0, 0).abs()
    span = torch.where(span < EXACT, span, 0)
    roundings = 2 * 2 * iterations * (squares.shape[-1] + 4)
    terms = grad.double().abs().amax((-1, -2), keepdim=True)
    return 2.0**-53 * (roundings + 4 * span.amax((-1, -2), keepdim=True) / tau) * terms / tau


def assert_agrees(squares: Tensor, grad: Tensor, tau: float, iterations: int) -> None:
    dtype, arguments = squares.dtype, (squares, grad, tau, iterations)
    assert kernels.has_kernel(squares)
    given, due = sinkhorn_gradient(*arguments), sinkhorn_gradient.__wrapped__(*arguments)
    assert given.dtype == dtype
    assert given.shape == squares.shape
    assert torch.equal(given.isnan(), due.isnan())
    finfo, due = torch.finfo(dtype), due.double()
    allowed = bound(*arguments) + finfo.smallest_normal * finfo.eps
    allowed = allowed + (0 if dtype == torch.float64 else finfo.eps) * due.abs()
    off = (given.double() - due).abs()
    assert ((off <= allowed) | due.isnan() | (given == due)).all(), (off / allowed).amax((-1, -2))


def squares_of(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Some of every kind, those that scales serve between those that they don't."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(8, size, size, generator=generator, dtype=torch.float64)
    far = torch.tensor(0.4 * torch.finfo(dtype).max, dtype=torch.float64)
    x[1] *= 1000
    x[2][torch.rand(size, size, generator=generator) < 0.3] = -INFINITY
    x[2].fill_diagonal_(0)
    x[3] += 100 * torch.arange(size)  # by columns
    x[3, 0] -= 400
    x[4] = torch.where(x[4] > 1, far, -far)
    x[4].fill_diagonal_(far)
    x[4, :, -1] = -far
    x[5] = torch.ones(size, size).tril().log()
    x[6] = (x[6] / 2).round()
    return x.to(dtype), torch.randn(x.shape, generator=generator).to(dtype)


@DTYPE
@SIZES
class TestAgreementOfSinkhorn:
    @pytest.mark.parametrize("iterations", [1, 2, 20])
    @pytest.mark.parametrize("tau", [1.0, 0.3, 8.0])
    def test_gradients(self, size, dtype, tau, iterations):
        x, grad = squares_of(size, dtype)
        assert_agrees(x, grad, tau, iterations)
        assert_agrees(x.mT, grad.movedim(0, -1).contiguous().movedim(-1, 0), tau, iterations)

    def test_scales_serve_what_is_moderate(self, size, dtype):
        """Else two gradients of which one is beyond them, by a power of 2, had the same bits."""
        x, grad = torch.randn(2, 3, size, size).to(dtype).double().unbind()
        by_scales, beyond = (sinkhorn_gradient(x, f * grad, 1.0, 20) / f for f in (1, 2.0**300))
        assert size < 3 or not torch.equal(by_scales, beyond)
        assert ((by_scales - beyond).abs() <= bound(x, grad, 1.0, 20)).all()

    def test_what_has_no_outcome(self, size, dtype):
        x, grad = squares_of(size, dtype)
        x[0, -1, 0], x[1, 0, -1], x[3, 0], x[6, :, -1] = NAN, INFINITY, -INFINITY, -INFINITY
        found = sinkhorn_gradient(x, grad, 1.0, 5)
        invalid = torch.tensor([True, True, False, True, False, False, True, False])
        assert torch.equal(found.isnan(), invalid[:, None, None] & (x != -INFINITY))
        assert_agrees(x, grad, 1.0, 5)

    def test_gradients_of_any_size(self, size, dtype):
        x, grad = squares_of(size, dtype)
        largest = torch.finfo(dtype).max
        grad[1::2] *= largest / 8
        grad[::4] *= 8 / largest
        grad[6] = 0
        assert_agrees(x, grad, 1.0, 5)
        assert (sinkhorn_gradient(x, grad, 1.0, 5)[6] == 0).all()
        grad[0, 0, 0], grad[1, -1, -1] = INFINITY, NAN
        found = sinkhorn_gradient(x, grad, 1.0, 5)
        assert torch.equal(found.isnan().any((-1, -2)), torch.arange(8) < 2)
        assert_agrees(x, grad, 1.0, 5)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != torch.float64], ids=str)
class TestAgreementOfSinkhornBeyondTheRange:
    def test_it_is_the_largest_number(self, dtype):
        """Of equal scores, whose gradient is g / 4 tau, and of some far apart."""
        x, grad = torch.zeros(2, 2, 2, dtype=dtype), torch.zeros(2, 2, 2, dtype=dtype)
        x[1, 0, 1] = -3000 * 2.0**-16
        grad[0, 0, 0] = grad[1, 1, 1] = largest = torch.finfo(dtype).max
        found = sinkhorn_gradient(x, grad, 2.0**-16, 1)
        assert found[0].tolist() == [[largest, -largest], [-largest, largest]]
        assert found.isfinite().all()
        assert_agrees(x, grad, 2.0**-16, 1)
