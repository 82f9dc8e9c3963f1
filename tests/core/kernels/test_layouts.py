"""Categorical kernels where the classes are not side by side in memory."""

import math
from functools import partial

import pytest
import torch

import straightthrough as st
from straightthrough.core.noise import Noise
from straightthrough.estimators import gumbel, reinmax
from straightthrough.ops.categorical import reference as categorical
from straightthrough.ops.subset import reference as subset

NOISE = Noise(torch.tensor(0x123456789ABCDEF), 5)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.mark.kernels
def test_any_strides():
    x, grad = (torch.randn(10, 3, 5).movedim(0, -1) for _ in range(2))
    index = categorical.draw_index(x, NOISE)
    assert torch.equal(index, categorical.draw_index.__wrapped__(x, NOISE))
    gradient = reinmax.reinmax(x, index.clamp(min=0), grad, 1.0)
    ordered = reinmax.reinmax(x.contiguous(), index.clamp(min=0), grad.contiguous(), 1.0)
    assert torch.equal(gradient.nan_to_num(7), ordered.nan_to_num(7))


@pytest.mark.kernels
class TestAgreementOfRowsBesideEachOther:
    """Classes that are an image's channels are worked on where they lie, if there are few."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(3, 5, 9, 11), (2, 64, 40), (1, 1, 35), (4, 65, 40)])
    def test_as_in_order(self, shape, dtype):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        x[0, :, 2] = math.nan
        x, grad = x.movedim(1, -1), torch.randn(shape).to(dtype).movedim(1, -1)
        y, index = categorical.draw(x, NOISE)
        wanted, drawn = categorical.draw(x.contiguous(), NOISE)
        assert torch.equal(index, drawn)
        assert torch.equal(y.nan_to_num(7), wanted.nan_to_num(7))
        assert torch.equal(index, categorical.draw_index(x, NOISE))
        assert shape[1] == 1 or (y.stride() == x.stride()) is (shape[1] <= 64)
        index, plain = index.clamp(min=0), (x.contiguous(), grad.contiguous())
        for other in (grad, plain[1]):  # strides like those of x, and not
            gradient = gumbel.gumbel_st(x, index, other, 1.0, 1, NOISE)
            ordered = gumbel.gumbel_st(plain[0], index, plain[1], 1.0, 1, NOISE)
            assert torch.equal(gradient.nan_to_num(7), ordered.nan_to_num(7))
        for largest in (categorical.argmax_hot, partial(subset.topk_hot, k=1)):
            assert torch.equal(largest(x).nan_to_num(7), largest(plain[0]).nan_to_num(7))
        soft = categorical.gumbel_softmax(x, 0.7, NOISE)
        ordered = categorical.gumbel_softmax(plain[0], 0.7, NOISE)
        assert torch.equal(soft.nan_to_num(7), ordered.nan_to_num(7))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_code_gets_an_average_in_the_order_that_it_expects(backend):
    x, weight = torch.randn(2, 5, 8, 8, requires_grad=True), torch.randn(2, 5, 8, 8)
    rule = st.estimators.GumbelRao(samples=3)

    def loss(x):
        return (st.categorical(x, rule, dim=1, seed=3) * weight).sum()

    with torch.enable_grad():
        wanted = torch.autograd.grad(loss(x), x)
        found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend=backend)(x), x)
    torch.testing.assert_close(found, wanted)
