"""Modules that `torch.func` calls with parameters and buffers of other models."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

import straightthrough as st
from straightthrough.nn import schedules

State = dict[str, Tensor]


class Net(nn.Module):
    """A layer and what is under test; the value is a number."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.layer, self.module = nn.Linear(5, 6), module

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(self.layer(x))
        loss = y.loss if isinstance(y, st.nn.Quantized) else 0
        y = y.quantized if isinstance(y, st.nn.Quantized) else y
        return (y * torch.arange(1.0, 7.0)).square().mean() + loss


def state(net: nn.Module) -> tuple[State, State]:
    """Return copies of the parameters and of the buffers."""
    copies = copy.deepcopy(net)
    parameters = {name: p.detach() for name, p in copies.named_parameters()}
    return parameters, dict(copies.named_buffers())


def numbers(seed: int = 0, rows: int = 40) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def assert_ensemble(nets: list[Net], skeleton: Net) -> None:
    """Assert that `vmap` gives each model its value, its gradients and its buffers."""
    x = numbers(1)

    def loss(parameters: State, buffers: State) -> Tensor:
        return functional_call(skeleton, (parameters, buffers), (x,))

    parameters, buffers = stack_module_state([copy.deepcopy(net) for net in nets])
    gradients, values = vmap(grad_and_value(loss))(parameters, buffers)
    for i, net in enumerate(nets):
        value = net(x)
        value.backward()
        torch.testing.assert_close(values[i], value.detach())
        for name, parameter in net.named_parameters():
            wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(gradients[name][i], wanted)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(buffers[name][i], buffer)


@pytest.mark.parametrize(
    "kind", [schedules.Linear, schedules.Exponential, schedules.Cosine, schedules.Confidence]
)
def test_models_of_an_ensemble_are_at_positions_of_their_own(
    kind: type[schedules.Schedule],
) -> None:
    confidence = kind is schedules.Confidence

    def make() -> schedules.Schedule:
        return kind() if confidence else kind(2.0, 0.5, 3)

    nets = [Net(st.nn.Argmax(make())) for _ in range(4)]
    for steps, net in enumerate(nets):
        for _ in range(steps):
            net(numbers())
            st.nn.step_schedules(net)
    assert_ensemble(nets, Net(st.nn.Argmax(make())))


SCALES = {
    "learned": lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.Learned(start="max"), "lsq"),
    "observed": lambda: st.nn.Quantizer(st.grids.Int(4), st.scales.Observed()),
}


@pytest.mark.parametrize("kind", SCALES)
def test_scales_that_have_started_go_on_in_a_module_that_has_none(kind: str) -> None:
    net, skeleton = Net(SCALES[kind]()), Net(SCALES[kind]())
    net(3 * numbers())
    x = numbers(1)
    _, value = grad_and_value(lambda p, b: functional_call(skeleton, (p, b), (x,)))(*state(net))
    torch.testing.assert_close(value, net(x).detach())


@pytest.mark.parametrize("kind", SCALES)
def test_scales_of_an_ensemble_go_on(kind: str) -> None:
    nets = [Net(SCALES[kind]()) for _ in range(3)]
    for i, net in enumerate(nets):
        net((1 + i) * numbers())
    assert_ensemble(nets, Net(SCALES[kind]()))


@pytest.mark.parametrize("kind", SCALES)
def test_a_scale_starts_in_the_buffers_that_are_given_and_in_no_others(kind: str) -> None:
    net = Net(SCALES[kind]())
    given = state(net)
    functional_call(net, given, (numbers(),))
    assert given[1]["module.started"]
    assert not net.module.started
    twin = copy.deepcopy(net)
    assert torch.equal(twin(numbers(1)), net(numbers(1)))
    assert net.module.started
    fresh = state(Net(SCALES[kind]()))
    functional_call(net, fresh, (numbers(),))
    assert fresh[1]["module.started"]


def test_a_codebook_starts_in_the_buffers_that_are_given_and_in_no_others() -> None:
    net = Net(st.nn.VectorQuantizer(8, 6))
    book = net.module.book
    given = state(net)
    before = book.codebook.clone()
    functional_call(net, given, (numbers(),))
    assert not torch.equal(given[1]["module.book.codebook"], before)
    assert not book.get_extra_state()
    twin, other = copy.deepcopy(net), copy.deepcopy(net)
    other.module.book.started = False
    assert torch.equal(twin(numbers(1)), other(numbers(1)))
    assert not torch.equal(twin.module.book.codebook, before)
    functional_call(twin, state(net), (numbers(),))  # starts, though the twin has
    fresh, wanted = state(net), copy.deepcopy(net)
    functional_call(twin, fresh, (numbers(),))
    wanted(numbers())
    assert torch.equal(fresh[1]["module.book.codebook"], wanted.module.book.codebook)
    assert twin.module.book.get_extra_state()


def test_codebooks_of_an_ensemble_go_on() -> None:
    nets = [Net(st.nn.VectorQuantizer(8, 6)) for _ in range(3)]
    for i, net in enumerate(nets):
        net((1 + i) * numbers())
    assert_ensemble(nets, Net(st.nn.VectorQuantizer(8, 6)))


@pytest.mark.parametrize("make", [*SCALES.values(), lambda: st.nn.VectorQuantizer(8, 6)])
def test_an_ensemble_of_which_some_have_started_is_refused(make: Callable[[], nn.Module]) -> None:
    nets = [Net(make()) for _ in range(2)]
    nets[0](numbers())
    skeleton, x, stacked = Net(make()), numbers(1), stack_module_state(nets)
    with pytest.raises(st.ArgumentError, match="some have started"):
        vmap(lambda p, b: functional_call(skeleton, (p, b), (x,)))(*stacked)


@pytest.mark.parametrize("steps", [0, 2])
def test_an_ensemble_whose_delays_are_over_together_quantizes(steps: int) -> None:
    nets = [Net(st.nn.Quantizer(st.grids.Int(2), delay=2)) for _ in range(3)]
    for net in nets * steps:
        st.nn.step_schedules(net)
    skeleton, x = Net(st.nn.Quantizer(st.grids.Int(2), delay=2)), numbers(1)
    found = vmap(lambda p, b: functional_call(skeleton, (p, b), (x,)))(*stack_module_state(nets))
    torch.testing.assert_close(found, torch.stack([net(x) for net in nets]))


def test_an_ensemble_of_which_some_delays_are_over_is_refused() -> None:
    """It took the way of the model that the call was made of, for all."""
    nets = [Net(st.nn.Quantizer(st.grids.Int(2), delay=2)) for _ in range(2)]
    for _ in range(2):
        st.nn.step_schedules(nets[1])
    skeleton, x, stacked = copy.deepcopy(nets[0]), numbers(1), stack_module_state(nets)
    with pytest.raises(st.ArgumentError, match="some are past their delay"):
        vmap(lambda p, b: functional_call(skeleton, (p, b), (x,)))(*stacked)


def test_a_control_variate_is_that_of_the_buffers_that_are_given() -> None:
    net = Net(st.nn.Categorical("reinmax", control=st.nn.ControlVariate(6)))
    parameters, buffers = state(net)
    torch.manual_seed(0)
    for parameter in parameters.values():
        parameter.requires_grad_()
    functional_call(net, (parameters, buffers), (numbers(),)).backward()
    twin = copy.deepcopy(net)
    torch.manual_seed(0)
    twin(numbers()).backward()
    assert net.module.control.square.eq(0).all()
    assert torch.equal(buffers["module.control.square"], twin.module.control.square)
    assert torch.equal(buffers["module.control.product"], twin.module.control.product)


def test_a_step_that_answers_is_that_of_the_buffers_that_are_given() -> None:
    lam = schedules.Answering(0.5, decay=0.5)
    net = Net(st.nn.Solve(lambda theta: (theta > 0).to(theta), "blackbox", lam=lam))
    parameters, buffers = state(net)
    grad_and_value(lambda p, b: functional_call(net, (p, b), (numbers(),)))(parameters, buffers)
    twin = copy.deepcopy(net)
    twin(numbers()).backward()
    assert lam.running == 1
    assert twin.module.lam.running != 1
    assert torch.equal(buffers["module.lam.running"], twin.module.lam.running)


def test_a_quantizer_of_a_bent_weight_has_derivatives_of_every_mode() -> None:
    quantize = st.nn.Quantizer(st.grids.Int(4), transform="tanh")
    x, along = numbers()[:6], numbers(1)[:6]
    slope = (1 - x.tanh().square()) / x.tanh().abs().max()  # the largest is held
    _, tangent = torch.func.jvp(quantize, (x,), (along,))
    assert torch.allclose(tangent, slope * along)
    second = torch.func.hessian(lambda x: quantize(x).sum())(x)
    bend = (-2 * x.tanh() * slope).flatten()
    assert torch.allclose(second.reshape(x.numel(), x.numel()), torch.diag(bend), atol=1e-6)
