"""What starts a scale that is kept, and what does not."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import straightthrough as st
from straightthrough.grids import Int
from straightthrough.nn import Quantizer, prepare
from straightthrough.scales import AbsMax, Learned, Observed, Scale

KEPT = [
    Learned(),
    Learned(start="mse"),
    Learned(start="3sigma"),
    Learned(zero_point=True),
    Learned(offset=True),
    Observed(),
    Observed(percentile=50),
]


@pytest.mark.parametrize("scaling", KEPT, ids=repr)
@pytest.mark.parametrize("way", ["forward", "start", "vmap"])
def test_an_input_without_a_number_starts_nothing(scaling: Scale, way: str) -> None:
    """Else a learned scale stayed at its floor."""
    quantize, other = (Quantizer(Int(8, signed=not scaling.shifts), scaling) for _ in range(2))
    x = torch.tensor([[math.nan], [math.inf]])
    calls = {"forward": quantize, "start": quantize.start, "vmap": torch.func.vmap(quantize)}
    calls[way](x)
    assert not quantize.started
    x = torch.randn(9)
    assert torch.equal(quantize(x), other(x))


@pytest.mark.parametrize("scaling", KEPT, ids=repr)
def test_an_input_of_zeros_alone_starts_nothing(scaling: Scale) -> None:
    quantize, other = (Quantizer(Int(8, signed=not scaling.shifts), scaling) for _ in range(2))
    assert quantize(torch.zeros(2, 9)).abs().max() < 1e-4
    assert not quantize.started
    quantize(torch.tensor([[0.0], [math.nan]]))
    assert not quantize.started
    x = torch.randn(9)
    assert torch.equal(quantize(x), other(x))
    assert quantize.started


@pytest.mark.parametrize("name", ["w4", "w2", "w4a8"])
def test_a_layer_that_begins_at_zero_trains(name: str) -> None:
    """As the second matrix of LoRA does: its scale stayed at the floor, and its gradient was 0."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 4, bias=False)
    torch.nn.init.zeros_(layer.weight)
    st.nn.prepare(layer, [("", name)])
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    x, w = torch.randn(64, 8), torch.randn(8, 4)
    losses = []
    for _ in range(200):
        losses.append((layer(x) - x @ w).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("call", ["start", "start_at"])
def test_a_scale_that_is_not_kept_starts_nowhere(call: str) -> None:
    with pytest.raises(st.ArgumentError, match="is measured on each input; "):
        getattr(Quantizer(Int(4), AbsMax()), call)(torch.ones(3))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("scaling", [Learned(), Learned(offset=True)], ids=repr)
def test_a_start_leaves_a_parameter_that_others_share(scaling: Scale, compiled: bool) -> None:
    torch._dynamo.reset()
    one, other, alone = (Quantizer(Int(4), scaling) for _ in range(3))
    other.parameter, other.shift = one.parameter, one.shift
    one(torch.randn(9))
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.5)
    scale, x = one.scale, torch.randn(9)
    (torch.compile(other, backend="aot_eager", fullgraph=True) if compiled else other)(x)
    assert torch.equal(one.scale, scale)
    torch.testing.assert_close(other(x), alone(x))
    other.start_at(2.0)
    torch.testing.assert_close(other.scale, torch.tensor(2.0))
    assert not any(one.parameters())


@pytest.mark.parametrize("kept", [["parameter"], ["origin"], ["origin", "parameter"]])
def test_a_file_of_a_part_of_a_scale_is_loaded_and_says_what_it_lacks(kept: list[str]) -> None:
    """One of parameters alone was passed over without a word, and the scale started anew."""
    source, target = (Quantizer(Int(4), Learned(), "lsq") for _ in range(2))
    for quantize in (source, target):
        quantize(torch.randn(9))
    with torch.no_grad():
        source.parameter.add_(0.5)
    before = copy.deepcopy(target.state_dict())
    found = {name: source.state_dict()[name] for name in kept}
    missing = target.load_state_dict(found, strict=False).missing_keys
    assert {*missing} == {*before} - {*kept}
    for name, got in target.state_dict().items():
        assert torch.equal(got, {**before, **found}[name]), name
    target(torch.randn(9))
    assert torch.equal(target.parameter, {**before, **found}["parameter"])
    with pytest.raises(RuntimeError, match="Missing key"):
        target.load_state_dict(found)


def test_what_a_file_of_a_part_of_a_model_lacks_is_said() -> None:
    """safetensors takes what is neither in its file nor said to be missing for an error."""
    model = prepare(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), [("*", "w4")])
    model(torch.arange(5))
    state = copy.deepcopy(model.state_dict())
    lacks = [key for key in state if key.startswith("1.")]
    part = {key: tensor for key, tensor in state.items() if key not in lacks}
    assert {*model.load_state_dict(part, strict=False).missing_keys} == {*lacks}
    assert all(torch.equal(got, state[key]) for key, got in model.state_dict().items())


def test_safetensors_load_a_model_whose_layers_share_a_weight(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model, x = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), torch.arange(5)
    model[1].weight = model[0].weight
    prepare(model, [("*", "w4")])
    fresh, y = copy.deepcopy(model), model(x)
    safetensors.save_model(model, tmp_path / "model.safetensors")
    safetensors.load_model(fresh, tmp_path / "model.safetensors")
    assert all(torch.equal(got, model.state_dict()[k]) for k, got in fresh.state_dict().items())
    assert torch.equal(fresh(x), y)


def test_an_axis_and_sizes_may_be_whole_numbers_of_numpy() -> None:
    quantize = Quantizer(Int(4), Learned(axis=np.int64(1)), shape=[np.int64(3), np.int32(2)])
    assert quantize.scaling == Learned(axis=1)
    assert quantize(torch.randn(3, 2)).shape == (3, 2)
    assert quantize.scale.shape == (1, 2)


@pytest.mark.parametrize("name", ["scale", "offset", "zero_point"])
@pytest.mark.parametrize("scaling", [st.scales.Learned(), st.scales.AbsMax()])
def test_what_is_computed_of_a_scale_is_set_by_start_at(name, scaling):
    quantizer = st.nn.Quantizer(st.grids.Int(4), scaling)
    with pytest.raises(st.ArgumentError, match="start_at"):
        setattr(quantizer, name, torch.ones(()))
