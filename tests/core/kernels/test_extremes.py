"""Kernels where their short cuts end: draws left open, weights that all but vanish."""

import pytest
import torch

from straightthrough.core.bits import unpack
from straightthrough.core.noise import Noise
from straightthrough.estimators import darn, straight_through
from straightthrough.estimators.categorical import one_hot
from straightthrough.ops.bernoulli import reference as binary
from straightthrough.ops.permutation import reference as orders
from straightthrough.relaxations import threshold
from straightthrough.relaxations.jacobian import relative_to
from straightthrough.testing import DTYPES
from straightthrough.testing.compare import assert_bits

pytestmark = pytest.mark.kernels

NOISE = Noise(torch.tensor(0x123456789ABCDEF), 5)
ACCURACY = 2e-6  # of float32 against float64


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def middle(u):
    """Of all that have the upper half of the bits in common with u."""
    return ((u * 2**16).floor() + 0.5) / 2**16


def close(u):
    """To u, on both sides of it, by less than an exponential out of a table is off."""
    side = 2 * (torch.arange(len(u)) % 2) - 1
    return (u + side * 2.0**-20).clamp(2.0**-20, 1 - 2.0**-20)


@pytest.mark.parametrize("count", [1, 9, 300, 5003])
@pytest.mark.parametrize("of_probs", [False, True])
@pytest.mark.parametrize("chosen", [middle, close])
class TestAgreementOfDrawsThatShortCutsLeaveOpen:
    def test_binary(self, count, of_probs, chosen):
        u = NOISE.elements(count, torch.float32)
        p = chosen(u)
        x = p if of_probs else torch.logit(p.double()).float()
        told = (u - p).abs() > (0 if of_probs else 2.0**-21)  # whatever the sigmoid rounds off
        expected = (u < p).float()[told]
        assert count < 100 or 0.4 < expected.mean() < 0.6
        y, bits = binary.binary_draw(x, of_probs, NOISE)
        assert torch.equal(y[told], expected)
        assert torch.equal(unpack(bits, x.shape)[told], expected.bool())
        gate = (2 / 3, -0.1, 1.1, True, of_probs)
        assert torch.equal(binary.concrete(x, *gate, NOISE)[told], expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 4), (9, 1), (700, 10), (65, 64), (33, 1000)], ids=str)
class TestAgreementOfASumThatCancels:
    def test_darn(self, shape, dtype):
        """To the sizes of what `<p, g - g_x>` adds up, which may be much larger than it."""
        x, grad = (3 * torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype)
        x[:, 1::7], grad[:, 0] = -torch.inf, 100
        index = torch.randint(0, 1 + (shape[1] - 1) // 2, shape[:1]) * 2 % max(shape[1], 1)
        given = darn.darn(x, index, grad).double()
        due = darn.darn.__wrapped__(x.double(), index, grad.double())
        p = torch.softmax(x.double(), -1)
        terms = (p * relative_to(index, grad.double())).abs()
        share = (one_hot(index, p) - p).abs()
        bound = ACCURACY * share * terms.sum(-1, keepdim=True)
        rounding = 2 * torch.finfo(dtype).eps * due.abs() + torch.finfo(dtype).smallest_normal
        assert bool(((given - due).abs() <= bound + rounding).all())


class TestAgreementFarBelowThePeak:
    @pytest.mark.parametrize("classes", [2, 70])
    def test_weights_down_to_subnormals_and_0(self, classes):
        x = torch.full((200, classes), -torch.inf)
        x[:, 0], x[:, 1] = 0, torch.linspace(-110, -70, 200)
        grad = torch.zeros_like(x)
        grad[:, 1] = 1  # so that the rare class has the largest term
        index = torch.zeros(200, dtype=torch.int64)
        found = straight_through.straight_through(x, index, grad, 1.0)[:, 1].double()
        expected = x[:, 1].double().exp()
        assert ((found - expected).abs() <= ACCURACY * expected + 2.0**-149).all()


class TestAgreementOfOrders:
    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_every_number_of_half_precision(self, dtype, descending):
        """Both zeros, those below the normal ones, and every NaN, of which no order is a rank."""
        order = torch.randperm(2**16, generator=torch.Generator().manual_seed(0))
        every = (order - 2**15).to(torch.int16).view(dtype)
        for scores in (every, every[~every.isnan()]):
            self.assert_same(scores, descending)

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("size", [2, 63, 64, 65, 300])
    def test_any_bits(self, dtype, descending, size):
        whole = torch.int32 if dtype == torch.float32 else torch.int64
        ends = torch.iinfo(whole)
        generator = torch.Generator().manual_seed(size)
        bits = torch.randint(ends.min, ends.max, (50, size), generator=generator, dtype=whole)
        bits[:, 1] = bits[:, 0]
        for scores in (bits.view(dtype), bits.view(dtype).nan_to_num(0)):
            self.assert_same(scores, descending)

    def assert_same(self, scores, descending):
        due = orders.ranks.__wrapped__(scores, descending)
        assert_bits(orders.ranks(scores, descending), due, "ranks")


class TestAgreementOfSteepGradients:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_ranks_of_scores_that_all_but_agree(self, dtype):
        """The gradient is beyond the range of its dtype, and is held in it."""
        numbers = torch.finfo(dtype)
        scores = torch.tensor([3.0, 0, 1, 2]).to(dtype) * max(numbers.tiny, numbers.smallest_normal)
        grad = torch.tensor([[1.0, -2, 3, 0.5]]).to(dtype) * 2**4
        order = orders.ranks(scores[None], True)[1]
        arguments = (scores[None], order, grad, 4.0, True)
        found = orders.rank_gradient(*arguments)
        assert torch.equal(found, orders.rank_gradient.__wrapped__(*arguments))
        assert found.abs().max() == numbers.max

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("entries", [3, 70])
    def test_thresholds_so_far_from_all_that_no_slope_is_left(self, dtype, entries):
        x = torch.linspace(-1, 1, entries).sign().to(dtype) * 3000
        grad = torch.linspace(-1, 2, entries).to(dtype)
        found = threshold.logistic_backward(x, grad, int((x > 0).sum()), 0.5)
        assert torch.equal(found, torch.zeros_like(x))
