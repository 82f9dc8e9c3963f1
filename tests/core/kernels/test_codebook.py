"""Kernels of codebooks against their references, at every instruction set that this machine has."""

import pytest
import torch

from straightthrough.core import kernels
from straightthrough.ops.codebook.grid import SLOPES
from straightthrough.ops.codebook.reference import (
    codewords,
    finite_scalars,
    finite_scalars_gradient,
    nearest_of_few,
    signs,
    sphere_gradient,
    two_largest,
)
from straightthrough.testing import DTYPES
from straightthrough.testing.compare import assert_bits

pytestmark = [pytest.mark.kernels, pytest.mark.parametrize("dtype", DTYPES, ids=str)]

SHAPES = [(1,), (1, 1), (9, 16), (7, 65), (33, 512), (3, 4, 1000), (0, 5), (5, 17)]
LEVELS = [[5], [2, 3], [8, 5, 5, 5], [4] * 16, [7] * 20, [1000] * 3, [8] * 9]


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_two_largest(shape, ties, dtype):
    scores = torch.randn(shape).to(dtype)
    scores = scores.round() if ties else scores
    if len(rows := scores.view(-1, shape[-1])) > 4:
        rows[1, shape[-1] // 2], rows[2], rows[3, -1] = torch.nan, -torch.inf, torch.inf
    assert kernels.has_kernel(scores)
    for x in (scores, scores.mT.contiguous().mT if scores.ndim > 1 else scores):
        pairs = zip(two_largest(x), two_largest.__wrapped__(x), strict=True)
        for got, due in pairs:
            assert_bits(got, due, f"{shape}")
    largest, place, following = two_largest(scores)
    known = scores[~largest.isnan()].double()
    if shape[-1] > 1:
        due = known.sort(dim=-1, descending=True, stable=True)
        assert_bits(largest[~largest.isnan()].double(), due.values[..., 0], "largest")
        assert_bits(following[~largest.isnan()].double(), due.values[..., 1], "next")
        assert torch.equal(place[~largest.isnan()], due.indices[..., 0])


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("slope", SLOPES.values(), ids=SLOPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_finite_scalars(levels, slope, symmetric, dtype):
    most = torch.finfo(dtype).max
    for rows in (0, 1, 7, 700):
        z = (2 * torch.randn(rows, len(levels))).to(dtype)
        grad = torch.randn_like(z)
        if rows > 5:
            z[1, -1], z[2, 0], z[3], z[4], z[5] = torch.nan, torch.inf, -torch.inf, 0, -0.0
            grad[0, 0], grad[4], grad[6, 0] = torch.inf, most, most
        bounds = (levels, slope, symmetric)
        assert kernels.has_kernel(z, grad)
        due = finite_scalars.__wrapped__(z, *bounds)
        for got, wanted in zip(finite_scalars(z, *bounds), due, strict=True):
            assert_bits(got, wanted, f"{levels}")
        got = finite_scalars_gradient(z, grad, *bounds)
        wanted = finite_scalars_gradient.__wrapped__(z.double(), grad.double(), *bounds)
        wanted = torch.where(grad.isfinite(), wanted.clamp(-most, most), wanted)
        torch.testing.assert_close(got, wanted.to(dtype), equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 3), (1,), (1, 1), (700, 5), (33, 16), (3, 4, 63), (9, 31)])
@pytest.mark.parametrize("size", [1.0, 0.3])
def test_signs(shape, size, dtype):
    z = torch.randn(shape).to(dtype)
    if len(rows := z.view(-1, shape[-1])) > 5:
        rows[1, -1], rows[2, 0], rows[3], rows[4], rows[5] = torch.nan, torch.inf, -1, 0, -0.0
    assert kernels.has_kernel(z)
    for x in (z, z.mT.contiguous().mT if z.ndim > 1 else z):
        for got, due in zip(signs(x, size), signs.__wrapped__(x, size), strict=True):
            assert_bits(got, due, f"{shape}")


@pytest.mark.parametrize(
    "shape", [(0, 3), (1, 1), (700, 5), (33, 16), (3, 4, 63), (9, 100), (8, 9, 40)]
)
def test_gradient_of_the_sphere(shape, dtype):
    z, grad = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    least, most = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    if len(rows := z.view(-1, shape[-1])) > 6:
        rows[1, -1], rows[2, 0], rows[3, -1], rows[4] = torch.nan, torch.inf, -torch.inf, 0
        rows[5], rows[6] = most / 4, rows[6] * least
        grads = grad.view(-1, shape[-1])
        grads[0, 0] = torch.inf
        grads[5] *= most / 16
    assert kernels.has_kernel(z, grad)
    for x, g in (
        (z, grad),
        (z.mT.contiguous().mT, grad),
        (z.movedim(-1, 0).contiguous().movedim(0, -1), grad),
    ):
        due = sphere_gradient.__wrapped__(x.double(), g.double())
        due = torch.where(g.isfinite(), due.clamp(-most, most), due)
        torch.testing.assert_close(sphere_gradient(x, g), due.to(dtype), equal_nan=True)


@pytest.mark.parametrize("codes", [1, 2, 15, 16, 17, 70])
@pytest.mark.parametrize("width", [1, 3, 8, 100])
@pytest.mark.parametrize("kind", ["normal", "ties", "far", "tiny", "huge", "equal", "a few"])
def test_nearest_of_few(codes, width, kind, dtype):
    z, codebook = torch.randn(43, width), torch.randn(codes, width)
    if kind == "ties":
        z, codebook = z.round(), codebook.round()
    elif kind == "far":
        z, codebook = z + 2.0**20, codebook + 2.0**20 * (dtype == torch.float64)
    if kind in ("equal", "a few"):  # but for the rounding of their sums
        order = torch.rand(codes, width).argsort(-1)
        z = z[:, :1].double().expand(-1, width).clone()
        codebook = codebook[:1].double().pow(3).expand(codes, -1).gather(-1, order)
        codebook[torch.arange(codes) % 16 > 0] += 10 * (kind == "a few")
    if kind in ("tiny", "huge"):
        size = torch.finfo(dtype).tiny if kind == "tiny" else torch.finfo(dtype).max / 8
        z, codebook = z.double() * size, codebook.double() * size
    z, codebook = z.to(dtype), codebook.to(dtype)
    z[3, -1], z[5, 0] = torch.nan, torch.inf
    assert kernels.has_kernel(z)
    assert_bits(nearest_of_few(z, codebook), nearest_of_few.__wrapped__(z, codebook), "nearest")
    codebook[: codes - 1, -1] = torch.nan
    codebook[-1, 0] = torch.inf if codes == 15 else 1
    lead = z[:42].reshape(7, 6, width)
    for x in (z, z[:0], lead, lead.mT.contiguous().mT):
        due = nearest_of_few.__wrapped__(x, codebook)
        assert_bits(nearest_of_few(x, codebook), due, f"{tuple(x.shape)}")


@pytest.mark.parametrize("shape", [(), (0,), (5,), (300, 4)])
@pytest.mark.parametrize("width", [1, 7, 70])
def test_codewords(width, shape, dtype):
    table, index = torch.randn(9, width).to(dtype), torch.randint(-1, 9, shape)
    table[3] = torch.nan
    for of in (table, table.mT.contiguous().mT):
        assert_bits(codewords(of, index), codewords.__wrapped__(of, index), "codewords")
