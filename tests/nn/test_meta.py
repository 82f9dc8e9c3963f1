"""Modules that are made on the meta device, and get the tensors of a file."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

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


S = st.nn.schedules
FILLED: list[Callable[[], nn.Module]] = [
    lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.Learned(), delay=2),
    lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.Observed(zero_point=True)),
    lambda: st.nn.TopKRouter(3, 2),
    lambda: st.nn.Argmax(S.Linear(2.0, 1.0, 10)),
    lambda: st.nn.Argmax(S.Confidence(decay=0.5)),
    lambda: st.nn.Categorical("reinmax", control=st.nn.ControlVariate(3)),
]


def filled(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a module that was made on meta, and then got storage that holds anything."""
    with torch.device("meta"):
        model = make()

    def fill(x: Tensor) -> Tensor:
        return torch.full_like(x, 77, device="cpu")

    return model._apply(fill)


@pytest.mark.parametrize("make", FILLED)
def test_what_is_counted_begins_in_storage_that_holds_anything(
    make: Callable[[], nn.Module],
) -> None:
    model, wanted = filled(make), make()
    for _ in range(3):
        for each in (model, wanted):
            torch.manual_seed(0)
            each(rows(0))
            st.nn.step_schedules(each)
    for (name, got), due in zip(model.named_buffers(), wanted.buffers(), strict=True):
        assert torch.equal(got, due), name


@pytest.mark.parametrize("learn", ["ema", "loss"])
def test_a_codebook_in_storage_that_holds_anything_starts_at_the_data(learn: str) -> None:
    model = filled(lambda: st.nn.VectorQuantizer(4, 3, learn=learn))
    wanted = st.nn.VectorQuantizer(4, 3, learn=learn)
    assert not model.book.get_extra_state()
    for _ in range(2):
        assert torch.equal(model(rows(0)).quantized, wanted(rows(0)).quantized)


def test_a_step_that_answers_begins_at_its_target() -> None:
    """Also where a checkpoint is from before the schedule; else its first step went up."""
    solve = nn.Sequential(nn.Linear(2, 2), S.Answering(1.0, rate=0.5))
    solve[1].see(torch.zeros(4, 3))
    solve[1].step()
    assert solve[1].value == 1.5
    solve.load_state_dict(nn.Sequential(nn.Linear(2, 2)).state_dict())
    other = filled(lambda: S.Answering(1.0, rate=0.5))
    for lam in (solve[1], other):
        lam.step()
        assert lam.value == 1.0


def test_a_gate_whose_temperature_moves_is_printed() -> None:
    with torch.device("meta"):
        gate = st.nn.HardConcreteGate(3, tau=st.nn.schedules.Linear(1, 0.5, steps=10))
    assert "HardConcreteGate(\n  (3,), probs=0.5, tau=tensor(..., device='meta'" in repr(gate)


@pytest.mark.parametrize(
    "make", [lambda: st.nn.VectorQuantizer(4, 3), lambda: st.nn.TopKRouter(3, 2)]
)
def test_a_state_dict_that_is_assigned_leaves_nothing_on_meta(
    make: Callable[[], nn.Module],
) -> None:
    """Else `.to(device)` is refused, and told to use `to_empty`, which forgets what was loaded."""
    with torch.device("meta"):
        model = make()
    model.load_state_dict(make().state_dict(), assign=True)
    assert not [name for name, buffer in model.named_buffers() if buffer.is_meta]
    model.to("cpu")
