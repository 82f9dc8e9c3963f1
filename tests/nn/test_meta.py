"""Modules that are made on the meta device, and get the tensors of a file."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import straightthrough as st


def rows(seed: int) -> Tensor:
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("update", ["forward", "manual"])
def test_a_codebook_starts_and_revives_as_the_one_that_was_saved(
    update: str, started: bool
) -> None:
    model = st.nn.VectorQuantizer(16, 3, revive=0.9, decay=0.5, update=update)
    if started:
        model(rows(0))
    with torch.device("meta"):
        twin = st.nn.VectorQuantizer(16, 3, revive=0.9, decay=0.5, update=update)
    twin.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    for seed in (1, 2):
        for each in (model, twin):
            each(rows(seed))
            each.update_codebook()
    assert torch.equal(twin.book.codebook, model.book.codebook)


def test_a_gate_whose_temperature_moves_is_printed() -> None:
    with torch.device("meta"):
        gate = st.nn.HardConcreteGate(3, tau=st.nn.schedules.Linear(1, 0.5, steps=10))
    assert "HardConcreteGate(\n  (3,), tau=tensor(..., device='meta'" in repr(gate)
