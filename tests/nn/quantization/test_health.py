"""Oscillations: their law, what is counted, frozen, damped and pulled."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import straightthrough as st
from straightthrough.grids import MX, Float, Int
from straightthrough.nn import CAGE, Config, Oscillations, Scheme, dampening, param_groups, prepare
from straightthrough.scales import RMS, AbsMax, AbsMean, Fixed, Learned, Observed

STEPS = Config(Scheme(Int(8), Fixed(1.0)))


def layer(*weights, config=STEPS):
    model = prepare(nn.Linear(len(weights), 1, bias=False), [("", config)])
    model.weight.data = torch.tensor([weights])
    return model


def settle(model, due, steps, *watches):
    """Train by the squares of what is off, an element; return codes after each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    codes = []
    for _ in range(steps):
        optimizer.zero_grad()
        (model.quantized_weight() - due).square().sum().backward()
        optimizer.step()
        for watch in watches:
            watch.step()
        codes.append(model.weight_quantizer.codes(model.weight)[0])
    return torch.stack(codes)


def test_the_law_of_flips():
    """The codes' mean is the target, and 2 min(f, 1 - f) of the steps flip, f its fraction."""
    due = torch.tensor([0.1, 0.25, 0.5, 0.75, -2.2])
    model = layer(0.5, 0.5, 0.5, 0.5, -2.5)
    watch = Oscillations(model, momentum=0.002)
    codes = settle(model, due, 4000, watch)
    torch.testing.assert_close(codes.float().mean(0), due, rtol=0, atol=0.01)
    law = 2 * torch.minimum(due - due.floor(), due.ceil() - due)
    flips = (codes[1:] != codes[:-1]).float().mean(0)
    torch.testing.assert_close(flips, law, rtol=0, atol=0.01)
    # Here every flip is against the last one, so an oscillation.
    (found,) = watch.weights.values()
    torch.testing.assert_close(found.frequency[0], law, rtol=0, atol=0.02)
    torch.testing.assert_close(found.average[0], due, rtol=0, atol=0.02)
    assert watch.share(0.3).item() == pytest.approx(0.8)  # but for 0.1


def test_an_oscillation_is_a_change_against_the_last_one():
    model = layer(0.0)
    watch = Oscillations(model, momentum=0.5)
    (found,) = watch.weights.values()
    frequency = 0.0
    # Up, up, still, down (against), still, down, up (against).
    for value, against in [(1, 0), (2, 0), (2, 0), (1, 1), (1, 0), (0, 0), (3, 1)]:
        model.weight.data.fill_(value)
        watch.step()
        frequency += 0.5 * (against - frequency)
        assert found.frequency.item() == frequency


@pytest.mark.parametrize("known", [True, False])  # whose weight is a parametrization's otherwise
def test_a_weight_that_is_assigned_is_watched(known):
    plain = nn.Linear(1, 1, bias=False) if known else nn.Bilinear(1, 1, 1, bias=False)
    model = prepare(plain, [("", STEPS)])
    watch = Oscillations(model, momentum=1.0, threshold=0.5)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    (weight,) = model.parameters()
    for value in (1.0, 2.0, 1.25):
        weight.data.fill_(value)
        watch.step()
    assert weight.item() == 1.0, "it is frozen there"


def test_running_means_stay_in_float32():
    """At a momentum of 1/100 one in bfloat16 of a code of 100 would never move by 1."""
    model = layer(100.0)
    watch = Oscillations(model).to(torch.bfloat16)
    (found,) = watch.weights.values()
    model.weight.data.fill_(101.0)
    for _ in range(500):
        watch.step()
    assert found.average.item() == pytest.approx(101, abs=0.01)


def test_what_oscillates_is_frozen_at_the_mean_of_its_codes():
    due = torch.tensor([0.1, 0.75, 3.0])
    rows = Config(Scheme(Int(8), Learned(start=127.0), "ste"))
    model = layer(0.5, 0.5, 3.0, config=rows)
    model.quantized_weight()
    model.weight_quantizer.parameter.requires_grad_(False)
    watch = Oscillations(model, momentum=0.01)
    settle(model, due, 800, watch)
    watch.threshold = 0.1
    codes = settle(model, due, 50, watch)
    (found,) = watch.weights.values()
    assert found.frozen.tolist() == [[True, True, False]]
    assert codes[-1].tolist() == [0, 1, 3]
    assert len(codes[1:].unique(dim=0)) == 1
    with torch.no_grad():  # the scale moves, and the codes stay
        model.weight_quantizer.origin.add_(1.0)
    settle(model, due, 1, watch)
    assert model.weight_quantizer.codes(model.weight)[0, :2].tolist() == [0, 1]


@pytest.mark.parametrize("scale", [AbsMax, AbsMean, RMS, Observed])
def test_codes_whose_scale_moves_with_them_are_not_frozen(scale):
    """Of AbsMax, a 6 beside a 7 that shrinks became a 7: its value was then the largest."""
    model = layer(7.0, 6.0, 1.0, config=Config(Scheme(Int(4), scale())))
    message = "is measured on each input; no code of 'weight' would stay frozen"
    with pytest.raises(st.ArgumentError, match=message):
        Oscillations(model, threshold=0.5)
    watch = Oscillations(model)
    watch.step()
    watch.threshold = 0.5
    with pytest.raises(st.ArgumentError, match=message):
        watch.step()


def test_codes_of_floats_are_counted_in_the_order_of_their_values():
    config = Config(Scheme(Float("e2m1"), Fixed(1.0)))
    model = layer(0.1, 0.3, -0.9, config=config)
    watch = Oscillations(model, momentum=0.1, threshold=0.5)
    (found,) = watch.weights.values()
    for step in range(40):
        sign = (-1) ** step
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[0.1 * sign, 0.3 * sign, -0.9 - 0.4 * sign]]))
        watch.step()
    assert found.frozen.tolist() == [[False, True, True]], "+0 and -0 are one value"
    assert found.frequency[0, 0] == 0
    assert model.weight[0, 1].abs() <= 0.5
    assert -1.5 <= model.weight[0, 2] <= -0.5


def test_a_training_goes_on_with_its_state():
    due = torch.tensor([0.1, 0.25])
    model = layer(0.5, 0.5)
    watch = Oscillations(model, threshold=0.15)
    settle(model, due, 60, watch)
    twin = copy.deepcopy(model)
    other = Oscillations(twin, threshold=0.15)
    other.load_state_dict(watch.state_dict())
    assert torch.equal(settle(twin, due, 60, other), settle(model, due, 60, watch))


def test_dampening_draws_to_the_value_but_not_from_beyond():
    model = layer(0.7, -0.2, 300.0, -1000.0)
    loss = dampening(model)
    assert loss.item() == pytest.approx(0.3**2 + 0.2**2)
    loss.backward()
    torch.testing.assert_close(model.weight.grad, torch.tensor([[-0.6, -0.4, 0.0, 0.0]]))
    assert dampening(nn.Linear(2, 2)).item() == 0


@pytest.mark.parametrize("size", [1 / 64, 1.0, 64.0])
def test_dampening_knows_what_a_block_reaches(size):
    """7.5 is beyond the 6 of its block, and 0.3 draws to 0.5; of any power of two times these."""
    config = Config(Scheme(MX(block=4), Fixed(), "identity"))
    model = layer(7.5 * size, 0.3 * size, 5.0 * size, -6.5 * size, config=config)
    values = model.quantized_weight().tolist()
    assert values == [[6.0 * size, 0.5 * size, 4.0 * size, -6.0 * size]]
    loss = dampening(model)
    loss.backward()
    assert loss.item() == pytest.approx((0.2**2 + 1) * size**2)
    due = torch.tensor([[0.0, -0.4, 2.0, 0.0]]) * size
    torch.testing.assert_close(model.weight.grad, due)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dampening_is_summed_in_float32(dtype):
    """400 layers of 1,024 weights, each 1/2 off: in float16 the sum would be infinite."""
    layers = [nn.Linear(1024, 1, bias=False, dtype=dtype) for _ in range(400)]
    model = prepare(nn.Sequential(*layers), [("*", STEPS)])
    for each in layers:
        nn.init.constant_(each.weight, 0.5)
    loss = dampening(model)
    assert loss.item() == 400 * 1024 / 4
    loss.backward()
    assert layers[0].weight.grad.unique().tolist() == [1.0]


def test_dampening_draws_what_a_weight_is_computed_of():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(2, 1, bias=False))
    length, direction = model.parameters()
    with torch.no_grad():
        length.fill_(5.0), direction.copy_(torch.tensor([[0.6, 0.8]]) * 2)  # a weight of (3, 4)
        length.add_(0.5)
    prepare(model, [("", STEPS)])
    loss = dampening(model)
    loss.backward()
    off = torch.tensor([0.3, 0.4])  # of (3.3, 4.4)
    assert loss.item() == pytest.approx(0.25)
    assert length.grad.item() == pytest.approx(2 * (off @ torch.tensor([0.6, 0.8])).item())


def test_dampening_moves_no_spectral_norm():
    model = prepare(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), [("", STEPS)])
    before = {name: each.clone() for name, each in model.named_buffers()}
    dampening(model).backward()
    assert model.parametrizations.weight[0].training
    assert model.parametrizations.weight.original.grad.any()
    for name, each in model.named_buffers():
        assert torch.equal(each, before[name]), name


def test_dampening_draws_what_is_left_of_a_pruned_weight():
    model = layer(0.7, 1.2, 3.4)
    nn.utils.prune.custom_from_mask(model, "weight", torch.tensor([[1.0, 1.0, 0.0]]))
    for _ in range(2):
        model.weight_orig.grad = None
        model(torch.ones(1, 3))
        loss = dampening(model)
        loss.backward()
        assert loss.item() == pytest.approx(0.3**2 + 0.2**2)
        due = torch.tensor([[-0.6, 0.4, 0.0]])
        torch.testing.assert_close(model.weight_orig.grad, due)


class Dampened(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self):
        return dampening(self.model)


def test_dampening_draws_what_a_functional_call_puts_in_the_place_of_parameters():
    loss = Dampened(prepare(nn.Linear(3, 2), [("", "w4")]))
    loss()  # which starts the scale
    state = {name: p.detach() + 0.01 for name, p in loss.named_parameters()}
    grads = torch.func.grad(lambda s: torch.func.functional_call(loss, s, ()))(state)
    loss.load_state_dict(state, strict=False)
    loss().backward()
    assert grads["model.weight"].abs().sum() > 0
    torch.testing.assert_close(grads["model.weight"], loss.model.weight.grad)


@pytest.mark.parametrize("why", ["delay", "switch"])
def test_what_does_not_quantize_is_left_alone(why):
    model = layer(0.25, 0.75, config=Config(STEPS.weight, delay=3 if why == "delay" else 0))
    model.weight_quantizer.enabled = why == "delay"
    watch = Oscillations(model, momentum=1.0, threshold=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    CAGE(optimizer, model, steps=1, start=0.0)
    weight = model.weight.detach().clone()
    for sign in (1, -1, 1):
        model.weight.grad = torch.zeros_like(weight)
        optimizer.step()
        assert torch.equal(model.weight, weight)
        assert dampening(model) == 0
        with torch.no_grad():
            model.weight.add_(sign)
        watch.step()
        weight += sign
    (found,) = watch.weights.values()
    assert not found.frozen.any()
    st.nn.step_schedules(model), st.nn.step_schedules(model), st.nn.step_schedules(model)
    model.weight_quantizer.enabled = True
    for code in (2.0, 3.0, 2.0):
        model.weight.data.fill_(code)
        watch.step()
    assert found.frozen.all()
    assert found.code.tolist() == [[2, 2]]
    assert dampening(layer(0.25)) > 0


def test_the_pull_is_decoupled_and_grows():
    model = layer(0.7, 2.2)
    optimizer = torch.optim.Adam(param_groups(model, lr=0.05))
    pull = CAGE(optimizer, model, steps=10, strength=4.0, start=0.5)
    strengths = []
    for _ in range(12):
        twin = copy.deepcopy(model)
        other = torch.optim.Adam(param_groups(twin, lr=0.05))
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for each, step in ((model, optimizer), (twin, other)):
            step.zero_grad()
            each.quantized_weight().square().sum().backward()
            step.step()
        strengths.append(pull.strength_now)
        wanted = twin.weight - 0.05 * strengths[-1] * (twin.weight - twin.weight.round())
        torch.testing.assert_close(model.weight, wanted)
    ramp = [0.0] * 5 + [0.8, 1.6, 2.4, 3.2, 4.0, 4.0, 4.0]
    assert strengths == pytest.approx(ramp)
    assert pull.state_dict()["position"] == 12
    pull.remove()
    assert not optimizer._optimizer_step_post_hooks


def test_the_monitor_sees_them():
    torch.manual_seed(0)
    model = prepare(nn.Sequential(nn.Linear(8, 8)), [("0", "w4")])
    model(torch.randn(4, 8))
    watch = Oscillations(model)
    optimizer = torch.optim.SGD(param_groups(model, lr=1e-4))
    with st.audit.Monitor(model, every=1) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 8)).square().mean().backward()
            optimizer.step()
            watch.step()
            monitor.step()
    seen = {(each.quantity, each.step): each.value for each in monitor.observations}
    assert {each.operator for each in monitor.observations} == {"0.weight_quantizer"}
    assert seen["oscillation", 2] == pytest.approx(
        watch.weights["0.weight"].frequency.mean().item()
    )
    assert seen["frozen", 2] == 0
    assert seen["flip_rate", 2] < 0.1, "scales move all values, and no code"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda all: pickle.loads(pickle.dumps(all))])
def test_a_pull_that_is_copied_with_its_optimizer_pulls_there(duplicate):
    model = layer(0.7, 2.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pull = CAGE(optimizer, model, steps=1, strength=1.0, start=0.0)
    twin, other, copied = duplicate((model, optimizer, pull))
    twin.weight.grad = torch.zeros_like(twin.weight)
    other.step()
    assert (int(pull.position), int(copied.position)) == (0, 1)
    wanted = model.weight - 0.1 * (model.weight - model.weight.round())
    torch.testing.assert_close(twin.weight, wanted)
    copied.remove()
    twin, other, copied = duplicate((twin, other, copied))
    other.step()
    assert int(copied.position) == 1


def test_what_watches_and_pulls_shows_its_settings():
    model = layer(0.7, 2.2)
    assert "momentum=0.5, threshold=None" in repr(Oscillations(model, momentum=0.5))
    shown = "CAGE(strength=2.0, start=0.8, position 0 of 7)"
    assert repr(pulled(model, steps=7, strength=2.0)) == shown


def pulled(model, **options):
    return CAGE(torch.optim.SGD(model.parameters(), lr=0.1), model, **options)


WRONG = [
    (lambda: Oscillations(nn.Linear(2, 2)), "no weight with codes of its own; first prepare it"),
    (lambda: Oscillations(layer(*[1.0] * 32, config=Config(Scheme(MX())))), "no weight with codes"),
    (lambda: Oscillations(layer(1.0), momentum=0), "momentum must lie in (0, 1], got 0"),
    (lambda: Oscillations(layer(1.0), threshold="a"), "threshold must be a finite number, got 'a'"),
    (lambda: Oscillations(layer(1.0), threshold=-1), "threshold must be at least 0, got -1"),
    (
        lambda: setattr(Oscillations(layer(1.0)), "threshold", float("nan")),
        "threshold must be a finite number, got nan",
    ),
    (lambda: pulled(layer(1.0), steps=0), "steps must be an int of at least 1, got 0"),
    (lambda: pulled(nn.Linear(2, 2), steps=1), "the optimizer has no weight of the model"),
    (lambda: CAGE(None, layer(1.0), steps=1), "must be a torch.optim.Optimizer, got None"),
    (
        lambda: CAGE(torch.optim.SGD(nn.Linear(2, 2).parameters()), layer(1.0), steps=1),
        "the optimizer has no weight of the model",
    ),
    (lambda: pulled(layer(1.0), steps=1, start=1), "start must lie in [0, 1), got 1"),
    (lambda: pulled(layer(1.0), steps=1, strength=-1), "strength must be at least 0, got -1"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_arguments(call, message):
    with pytest.raises(st.ArgumentError) as caught:
        call()
    assert message in str(caught.value)


def test_a_law_of_another_step_size():
    """The same law where the scale is not 1."""
    scale, due = 0.25, 0.1
    model = layer(0.1, config=Config(Scheme(Int(8), Fixed(scale))))
    codes = settle(model, torch.tensor([due]), 4000)
    fraction = due / scale - math.floor(due / scale)
    flips = (codes[1:] != codes[:-1]).float().mean()
    assert flips.item() == pytest.approx(2 * min(fraction, 1 - fraction), abs=0.01)


def test_a_copy_with_the_model_watches_the_copy_and_one_alone_is_refused():
    model = layer(0.0)
    watch = Oscillations(model, momentum=0.5)
    for alone in (watch, (watch, model)):
        with pytest.raises(st.StraightThroughError, match=r"copy\.deepcopy\(\(model, osc"):
            copy.deepcopy(alone)
    twin, other = copy.deepcopy((model, watch))
    twin.weight.data += 1
    other.step()
    assert other.weights["weight"].code.item() == 1
    assert watch.weights["weight"].code.item() == 0
