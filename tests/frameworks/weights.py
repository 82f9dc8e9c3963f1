"""What ranks do in the tests of quantized weights that fully_shard has cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import straightthrough as st
from frameworks.training import shard, whole
from straightthrough.scales import Learned

SCHEMES = (
    st.nn.Scheme(st.grids.Int(3), Learned(axis=0), "lsq"),
    st.nn.Scheme(st.grids.Int(3), Learned(), "lsq"),
    st.nn.Scheme(st.grids.Int(3, signed=False), Learned(axis=0, zero_point=True), "ste"),
)


def network(scheme: st.nn.Scheme) -> nn.Sequential:
    """Return layers of which no number of ranks divides the rows of the first one's weight."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 7))
    return st.nn.prepare(model, [("0", st.nn.Config(scheme)), ("2", None)])


def trained(model: nn.Module, inputs: Tensor) -> tuple[st.nn.Oscillations, Tensor]:
    """Return what is known of codes, and the last loss that draws weights to their values."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    oscillations = st.nn.Oscillations(model, momentum=0.3, threshold=0.4)
    st.nn.CAGE(optimizer, model, steps=6, strength=0.5, start=0.5)
    for rows in inputs:
        optimizer.zero_grad()
        model(rows).square().mean().backward()
        optimizer.step()
        oscillations.step()
    return oscillations, whole(st.nn.dampening(model))


def try_weights(rank: int) -> None:
    """Scales, codes and what watches and moves weights, between forwards, are those of one."""
    inputs = torch.randn(6, 9, 6, generator=torch.Generator().manual_seed(1))
    for scheme in SCHEMES:
        alone, model = network(scheme), network(scheme)
        alone(inputs[0]), model(inputs[0])
        shard(model)
        own, found = alone[0].weight_quantizer, model[0].weight_quantizer
        torch.testing.assert_close(whole(found.scale), own.scale)
        assert torch.equal(whole(found.codes(model[0].weight)), own.codes(alone[0].weight))
        (watched, loss), (wanted, due) = trained(model, inputs), trained(alone, inputs)
        torch.testing.assert_close(loss, due)
        torch.testing.assert_close(watched.share(0.1), wanted.share(0.1))
        assert wanted.share(0.1) > 0
        for parameter, other in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(whole(parameter), other)
