"""What a draw by a kernel shares with one by the reference, as docs/guides/noise.md promises."""

import pytest
import torch

from straightthrough.core import kernels
from straightthrough.core.gumbels import gumbels
from straightthrough.core.noise import Noise
from straightthrough.ops.bernoulli import reference as binary
from straightthrough.ops.categorical import reference as categorical
from straightthrough.ops.quantize.reference_drawn import stochastic_round
from straightthrough.ops.subset import reference as subset
from straightthrough.testing.compare import assert_bits

NOISE = Noise(torch.tensor(0x123456789ABCDEF), 5)
BOUNDARY = {torch.float32: 2.0**-22, torch.bfloat16: 2.0**-22, torch.float64: 2.0**-50}
RARELY = 1e-4


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", BOUNDARY, ids=str)
class TestAgreementOfDraws:
    def test_draws_from_probabilities_are_bit_equal(self, dtype):
        p = torch.rand(300_000).to(dtype)
        uniform = NOISE.elements(p.numel(), torch.promote_types(dtype, torch.float32))
        value, _ = binary.binary_draw(p, True, NOISE)
        assert kernels.has_kernel(p)
        assert torch.equal(value, (uniform < p).to(dtype))

    def test_draws_from_logits_differ_at_a_boundary_only(self, dtype):
        x = torch.randn(300_000).to(dtype)
        uniform = NOISE.elements(x.numel(), torch.promote_types(dtype, torch.float32))
        value, _ = binary.binary_draw(x, False, NOISE)
        distance = uniform.double() - torch.sigmoid(x.double())
        differs = value.bool() != (distance < 0)
        assert (distance[differs].abs() <= BOUNDARY[dtype]).all()
        assert differs.float().mean() <= RARELY

    @pytest.mark.parametrize("shape", [(80_000, 16), (2_000, 1_000)], ids=str)
    def test_classes_differ_at_a_boundary_only(self, dtype, shape):
        logits = (2 * torch.randn(shape)).to(dtype)
        drawn, reference = (
            draw(logits, NOISE).unsqueeze(-1)
            for draw in (categorical.draw_index, categorical.draw_index.__wrapped__)
        )
        until = torch.softmax(logits.double(), -1).cumsum(-1)
        uniform = NOISE.rows(shape[0]).unsqueeze(-1).double() / 2**53
        for index in (drawn, reference):
            above = until.gather(-1, index) - uniform
            before = until.gather(-1, (index - 1).clamp(min=0))
            below = uniform - torch.where(index > 0, before, 0)
            assert (torch.minimum(above, below) >= -BOUNDARY[dtype]).all()
        assert (drawn != reference).float().mean() <= RARELY

    @pytest.mark.parametrize(("shape", "k"), [((20_000, 16), 4), ((500, 300), 20)], ids=str)
    def test_subsets_are_the_same(self, dtype, shape, k):
        """They may differ within about 1e-13 of a boundary; none of these is so near."""
        logits = (2 * torch.randn(shape)).to(dtype)
        drawn, reference = subset.draw_subset, subset.draw_subset.__wrapped__
        assert kernels.has_kernel(logits)
        assert torch.equal(drawn(logits, k, NOISE), reference(logits, k, NOISE))
        shard = drawn(logits[17:], k, NOISE.after(17))
        assert torch.equal(shard, drawn(logits, k, NOISE)[17:])

    @pytest.mark.parametrize("shape", [(0, 5), (20, 1), (3000, 10), (65, 64), (40, 1000)], ids=str)
    @pytest.mark.parametrize("sample", [0, 3])
    def test_gumbels_are_those_of_double_precision(self, dtype, shape, sample):
        x = torch.zeros(shape, dtype=dtype)
        wide = torch.promote_types(dtype, torch.float32)
        u = NOISE.classes(*shape, wide, sample).double()
        due, given = -(-torch.log1p(-u)).log(), gumbels(x, sample, NOISE)
        assert kernels.has_kernel(x)
        assert given.dtype == dtype
        off = (given.double() - due).abs() / due.abs().clamp(min=0.1)
        assert bool((off <= max(10 * torch.finfo(dtype).eps, 2e-15)).all())
        assert torch.equal(gumbels(x[17:], sample, NOISE.after(17)), given[17:])


@pytest.mark.kernels
@pytest.mark.parametrize("size", [0, 1, 7, 8, 33, 5003, 70_000])
@pytest.mark.parametrize("dtype", [*BOUNDARY, torch.float16], ids=str)
def test_roundings_are_bit_equal(dtype, size):
    special = [0.0, -0.0, 0.3, -0.3, torch.nan, torch.inf, -torch.inf, -1e-30, 7.0, -7.0, 1e4, 2.5]
    x = torch.cat([torch.tensor(special), torch.linspace(-3, 3, size)]).to(dtype)
    for each in (x, x[:size], x.repeat(2, 1).T):
        assert kernels.has_kernel(each)
        due = stochastic_round.__wrapped__(each, NOISE)
        assert_bits(stochastic_round(each, NOISE), due, "rounded")
