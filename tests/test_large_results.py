"""Kernels whose results are too large for the cache, and are written past it."""

import pytest
import torch

from straightthrough.estimators import gumbel, reinmax, straight_through
from straightthrough.ops.bernoulli import reference as binary
from straightthrough.ops.categorical import reference as categorical
from straightthrough.ops.pointwise import reference as pointwise

pytestmark = pytest.mark.kernels

SEED = torch.tensor(11)
GATE = (2 / 3, -0.1, 1.1, False, False)


def outcomes(x, first):
    return torch.arange(first, first + len(x)) % x.shape[-1]


def truths(x, first):
    return torch.arange(x.numel()).reshape(x.shape) % 3 == 0


CASES = {
    "draw": lambda x, g, first: categorical.draw(x, SEED, first)[0],
    "gumbel_softmax": lambda x, g, first: categorical.gumbel_softmax(x, SEED, first, 0.5),
    "straight_through": lambda x, g, first: straight_through.straight_through(
        x, outcomes(x, first), g, 1.0
    ),
    "reinmax": lambda x, g, first: reinmax.reinmax(x, outcomes(x, first), g, 1.0),
    "gumbel_st": lambda x, g, first: gumbel.gumbel_st(
        x, outcomes(x, first), g, 1.0, 1, SEED, first
    ),
    "binary_draw": lambda x, g, first: binary.binary_draw(x, SEED, first * x.shape[-1], False)[0],
    "binary_reinmax": lambda x, g, first: reinmax.binary_reinmax(x, truths(x, first), g, 1.0),
    "concrete": lambda x, g, first: binary.concrete(x, SEED, first * x.shape[-1], *GATE),
    "concrete_backward": lambda x, g, first: binary.concrete_backward(
        x, g, SEED, first * x.shape[-1], *GATE
    ),
    "sign": lambda x, g, first: pointwise.sign(x),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", [(2403, 1001), (48_000, 50), (150_001, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_result_is_that_of_its_parts(case, shape, dtype):
    call = CASES[case]
    rows = 1 if dtype == torch.float32 else 2  # as many bytes
    x, g = torch.randn(2, rows * shape[0], shape[1], generator=torch.Generator().manual_seed(0))
    x, g = x.to(dtype), g.to(dtype)
    with torch.no_grad():
        step = 1200
        parts = [call(x[i : i + step], g[i : i + step], i) for i in range(0, len(x), step)]
        wanted = torch.cat(parts)
        # The second one lies in memory that the process has, behind what keeps it from giving it back.
        first = call(x, g, 0)
        behind = torch.empty_like(first)
        assert torch.equal(first, wanted)
        del first
        assert torch.equal(call(x, g, 0), wanted)
        del behind
