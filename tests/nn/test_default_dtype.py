"""Modules that are made under another default dtype than float32, as loaders of models do it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import straightthrough as st

HALF = [torch.float16, torch.bfloat16]
MODULES = {
    "router": lambda: st.nn.TopKRouter(4, 2),
    "codebook": lambda: st.nn.VectorQuantizer(8, 4, revive=0.1),
    "chain": lambda: st.nn.ResidualVQ(2, 8, 4, learn="loss"),
    "control": lambda: st.nn.Categorical(control=st.nn.ControlVariate(4)),
    "confidence": lambda: st.nn.Argmax(st.nn.schedules.Confidence()),
    "answering": lambda: st.nn.Solve(torch.sign, "blackbox", lam=st.nn.schedules.Answering()),
    "observed": lambda: st.nn.Quantizer(st.grids.Int(8), st.scales.Observed()),
    "learned": lambda: st.nn.Quantizer(st.grids.Int(8), st.scales.Learned(offset=True), "lsq_plus"),
}


@pytest.fixture(params=[*HALF, torch.float64])
def default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", MODULES)
def test_they_have_the_dtypes_of_a_module_that_is_cast(default: torch.dtype, name: str) -> None:
    """Means and counts stay in float32, where steps of 1% are not rounded off."""
    module = MODULES[name]()
    found = {key: value.dtype for key, value in module.named_buffers()}
    torch.set_default_dtype(torch.float32)
    cast = MODULES[name]().to(default)
    torch.set_default_dtype(default)
    due = {key: value.dtype for key, value in cast.named_buffers()}
    if default in HALF:
        assert found == due
    x = torch.rand(6, 4, requires_grad=True)
    for _ in range(2):
        y = module(x)
        (y if isinstance(y, torch.Tensor) else y[0]).square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_bias_moves_by_its_rate(default: torch.dtype) -> None:
    router = st.nn.TopKRouter(2, 1, rate=1e-3)
    router.bias.fill_(0.5)
    for _ in range(5):
        router(torch.tensor([[2.0, 0.0]]).expand(100, 2))
        router(torch.tensor([[0.0, 2.0]]).expand(101, 2))
    assert router.load.tolist() == [500, 505]
    router.update()
    torch.testing.assert_close(router.bias, torch.tensor([0.501, 0.499], dtype=torch.float32))
