"""The masked network: what it learns, and what its mask costs."""

import pytest
import torch
from torch import nn

from straightthrough.studies.mask import study as mask


@pytest.fixture
def no_timing(monkeypatch):
    """Leave out the timing of masks, which takes seconds and has a test of its own."""
    monkeypatch.setattr(mask, "measure", lambda notify: [])


@pytest.mark.usefixtures("no_timing")
def test_the_masked_network_learns_with_fewer_weights():
    result = mask.run(mask.Settings(epochs=10))
    masked, dense = result.runs
    assert (masked.network, dense.network) == ("masked", "dense")
    assert masked.weights == dense.weights == 64 * 128 + 128 * 64 + 64 * 10
    assert masked.points[0].live == dense.points[-1].live == 100
    assert masked.points[-1].live < 60
    for run in (masked, dense):
        assert run.points[-1].test_error < 15 < run.points[0].test_error


def test_live_weights_are_the_ones_that_inference_uses():
    torch.manual_seed(0)
    layer = mask.MaskedLinear(5, 4).eval()
    nn.init.normal_(layer.gate.logits)
    x = torch.randn(3, 5)
    expected = x @ (layer.weight * layer.live()).T + layer.bias
    torch.testing.assert_close(layer(x), expected)
    assert 0 < layer.live().sum() < 20


def test_the_cost_is_measured_against_the_bare_layer():
    seen = []
    costs = mask.measure(seen.append, size=256, batch=8, rounds=5)
    assert [cost.name for cost in costs] == [
        "no mask",
        "soft, plain torch",
        "hard, in training",
        "hard, at inference",
    ]
    bare, soft, *_ = costs
    assert bare.share == 0
    assert soft.share == pytest.approx(100 * (1 - bare.milliseconds / soft.milliseconds))
    assert soft.share > 0
    assert [progress.done for progress in seen] == [0, 1, 2, 3, 4, 5]
