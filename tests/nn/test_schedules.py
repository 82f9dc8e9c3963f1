"""Schedules: their values, and a position that survives whatever a model goes through."""

from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import straightthrough as st
from straightthrough.nn.schedules import (
    Answering,
    Confidence,
    Constant,
    Cosine,
    Delay,
    Exponential,
    Linear,
    Schedule,
)


def values(schedule: Schedule, count: int) -> list[float]:
    seen = []
    for _ in range(count):
        seen.append(schedule.value)
        schedule.step()
    return seen


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(0.3), [0.3, 0.3, 0.3, 0.3, 0.3, 0.3]),
        (Linear(1.0, 3.0, 4), [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]),
        (Exponential(1.0, 16.0, 4), [1.0, 2.0, 4.0, 8.0, 16.0, 16.0]),
        (Exponential(1.0, 1e-4, 4), [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-4]),
        (
            Cosine(2.0, 0.0, 4),
            [2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0, 0.0],
        ),
        (Linear(1.0, 3.0, 0), [3.0, 3.0, 3.0, 3.0, 3.0, 3.0]),
    ],
)
def test_values_go_from_start_to_end_and_stay(schedule, expected):
    assert values(schedule, 6) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("buffers", "reached"), [(False, 3), (True, 0)])
def test_an_average_of_models_has_the_position_unless_it_averages_buffers(buffers, reached):
    """As the guide has it: torch rounds the mean of whole numbers down, however often it is."""
    model = nn.Sequential(nn.Linear(2, 2), st.nn.Quantizer(st.grids.Int(2), delay=3))
    mean = get_ema_multi_avg_fn(0.9)
    average = AveragedModel(model, multi_avg_fn=mean, use_buffers=buffers)
    for _ in range(40):
        average.update_parameters(model)
        st.nn.step_schedules(model)
    average.update_parameters(model)
    assert average.module[1].delay.position == reached
    assert average.module[1].active is not buffers


@pytest.mark.parametrize("kind", [Linear, Exponential, Cosine])
def test_both_ends_are_exact(kind):
    schedule = kind(0.7, 0.1, 3)
    seen = values(schedule, 5)
    assert (seen[0], seen[3], seen[4]) == (0.7, 0.1, 0.1)


def model(steps: int = 10) -> nn.Sequential:
    sample = st.nn.Categorical("reinmax", tau=Exponential(2.0, 1.0, steps))
    return nn.Sequential(nn.Linear(3, 4), sample)


def moved(by: int) -> nn.Sequential:
    net = model()
    for _ in range(by):
        st.nn.step_schedules(net)
    return net


def tau(net: nn.Sequential) -> float:
    return net[1].rule.tau


def test_position_is_in_the_state_dict_of_the_model():
    source, target = moved(5), model()
    assert tau(target) == 2.0
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    assert tau(target) == tau(source) == pytest.approx(math.sqrt(2.0))
    st.nn.step_schedules(target)
    assert tau(source) != tau(target)


def test_state_dict_holds_tensors_only():
    state = moved(5).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert 5 in [int(v) for name, v in state.items() if "tau" in name]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_the_position_and_then_go_their_own_way(duplicate):
    source = moved(5)
    twin = duplicate(source)
    assert tau(twin) == tau(source)
    st.nn.step_schedules(twin)
    assert twin[1].tau.position == 6
    assert source[1].tau.position == 5


def test_a_position_written_through_data_is_seen_as_averages_of_models_write_it():
    average, source = model(), moved(5)
    assert tau(average) == 2.0
    for mine, other in zip(average.buffers(), source.buffers(), strict=True):
        mine.data.copy_(other.data)
    assert tau(average) == tau(source)


@pytest.mark.parametrize("schedule", [lambda: Linear(2.0, 1.0, 5), Confidence, Answering])
def test_a_model_without_storage_can_be_printed_and_filled(schedule):
    with torch.device("meta"):
        net = st.nn.Argmax(schedule())
    assert type(net.tau).__name__ in repr(net)
    filled = st.nn.Argmax(schedule())
    net.load_state_dict(filled.state_dict(), assign=True)
    assert net.tau.value == filled.tau.value


def test_a_value_is_a_number_of_python_whatever_the_ends_are():
    start = torch.tensor(2.0)
    tau = Linear(start, np.float32(1.0), 2)
    start.fill_(9.0)
    tau.step()
    assert (tau.start, tau.value) == (2.0, 1.5)
    assert type(tau.value) is float


def test_a_shorter_schedule_loads_a_later_position_as_its_end():
    target = model(steps=3)
    target.load_state_dict(moved(5).state_dict())
    assert tau(target) == 1.0


def test_moving_the_model_to_another_dtype_keeps_the_position():
    assert tau(moved(5).to(torch.float64).half()) == pytest.approx(math.sqrt(2.0))


def test_step_schedules_moves_each_schedule_once_shared_ones_too():
    shared, own = Linear(1.0, 2.0, 10), Linear(1.0, 2.0, 10)
    net = nn.ModuleList(
        [
            st.nn.Sign("tanh", slope=shared),
            nn.Sequential(st.nn.Heaviside(surrogate="sigmoid", slope=shared)),
            st.nn.GumbelSoftmax(own),
        ]
    )
    st.nn.step_schedules(net)
    assert (shared.position, own.position) == (1, 1)


def test_an_optimizer_loop_anneals_the_gradient():
    net = st.nn.Sign("tanh", slope=Linear(1.0, 3.0, 2))
    slopes = []
    for _ in range(3):
        x = torch.zeros(1, requires_grad=True)
        net(x).backward()
        slopes.append(x.grad.item())
        st.nn.step_schedules(net)
    assert slopes == [1.0, 2.0, 3.0]


# Rows whose largest probabilities are 1/2 and 3/4.
LOGITS = torch.tensor([[2.0, 1.0, 1.0], [6.0, 1.0, 1.0]]).log()


def test_confidence_moves_linearly_from_start_to_end():
    tau = Confidence()
    assert (tau.start, tau.end, tau.decay, tau.value) == (3.0, 0.5, 0.99, 3.0)
    module, running = st.nn.Argmax(tau), 0.0
    for _ in range(3):
        module(LOGITS)
        before = tau.value
        running = 0.99 * running + 0.01 * 0.625  # the mean of 1/2 and 3/4
        assert tau.value == before  # until the step
        st.nn.step_schedules(module)
        assert tau.value == pytest.approx(3.0 - 2.5 * running, rel=1e-6)
        assert module.rule.tau == tau.value
    certain = st.nn.Argmax(Confidence(decay=0.0))
    certain(torch.tensor([[99.0, 0.0]]))
    st.nn.step_schedules(certain)
    assert certain.rule.tau == 0.5


def test_confidence_sees_every_forward_in_training_and_none_in_eval():
    module = st.nn.Argmax(Confidence(decay=0.5))
    module(LOGITS[:1])
    module(LOGITS[1:])
    module.eval()(LOGITS)
    st.nn.step_schedules(module)
    assert module.tau.position == pytest.approx(0.5 * 0.25 + 0.5 * 0.75)


@pytest.mark.parametrize(
    "make",
    [
        lambda tau: st.nn.Argmax(tau, dim=0),
        lambda tau: st.nn.Categorical("straight_through", tau=tau, dim=0),
        lambda tau: st.nn.Categorical("decoupled", tau_backward=tau, dim=0),
        lambda tau: st.nn.CategoricalInteger("reinmax", tau=tau, dim=0),
        lambda tau: st.nn.CategoricalLookup(4, 2, "reinmax", tau=tau, dim=0, dtype=torch.float16),
        lambda tau: st.nn.GumbelSoftmax(tau, dim=0),
        lambda tau: st.nn.TopK(1, tau=tau, dim=0),
    ],
)
def test_confidence_is_that_along_dim_of_what_is_allowed(make):
    tau = Confidence(decay=0.0)
    logits = torch.cat([LOGITS.T, torch.full((1, 2), 9.0)])
    make(tau)(logits.half(), mask=torch.tensor([True, True, True, False])[:, None])
    tau.step()
    assert tau.position == pytest.approx(0.625, abs=1e-3)


def test_confidence_does_not_count_rows_without_an_outcome():
    tau = Confidence(decay=0.0)
    module = st.nn.Argmax(tau)
    module(torch.cat([LOGITS[:1], torch.full((1, 3), math.nan)]))
    tau.step()
    assert tau.position == 0.5
    for empty in (torch.full((2, 3), math.nan), torch.zeros(0, 3)):
        module(empty)
        tau.step()
        assert tau.position == 0.5


def test_confidence_is_in_the_state_dict_and_survives_another_dtype():
    source, target = (st.nn.Argmax(Confidence(decay=0.5)) for _ in range(2))
    source(LOGITS)
    st.nn.step_schedules(source)
    source(LOGITS)  # seen, and not yet read
    source.half()
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target.load_state_dict(torch.load(file, weights_only=True))
    for twin in (target, copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert twin.tau.position == source.tau.position == 0.3125
        twin.tau.step()
        assert twin.tau.position == pytest.approx(0.46875)
    assert source.tau.position == 0.3125


def test_a_count_of_failures_moves_with_a_schedule():
    module = st.nn.NegativeBinomial(Linear(2.0, 4.0, 2)).eval()
    means = []
    for _ in range(3):
        means.append(module(torch.zeros(1)).item())  # r e^0
        st.nn.step_schedules(module)
    assert means == [2.0, 3.0, 4.0]


def test_gates_start_at_the_value_of_a_schedule():
    gate = st.nn.HardConcreteGate(3, probs=Linear(0.2, 0.4, 1))
    assert torch.allclose(gate.logits.sigmoid(), torch.tensor(0.2))
    st.nn.step_schedules(gate)
    gate.reset_parameters()
    assert torch.allclose(gate.logits.sigmoid(), torch.tensor(0.4))


def test_confidence_of_two_numbers_of_a_module_sees_a_forward_once():
    tau = Confidence(decay=0.5)
    module = st.nn.Categorical("decoupled", tau_forward=tau, tau_backward=tau)
    module(LOGITS)
    assert tau.running == 0.3125


def test_confidence_leaves_the_errors_of_its_module_as_they_are():
    with pytest.raises(st.ShapeError, match="dim must lie in"):
        st.nn.Argmax(Confidence(), dim=2)(LOGITS)
    with pytest.raises(st.DtypeError, match="logits must be"):
        st.nn.Argmax(Confidence())(LOGITS.long())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_confidence_is_seen_in_compiled_code():
    torch.compiler.reset()
    module = st.nn.Argmax(Confidence(decay=0.5))
    torch.compile(module, fullgraph=True, backend="aot_eager_decomp_partition")(
        LOGITS.clone().requires_grad_()
    )
    module.tau.step()
    assert module.tau.position == pytest.approx(0.3125)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Confidence(decay=1.0),
        lambda: Confidence(decay=-0.1),
        lambda: Confidence(decay=math.nan),
        lambda: Confidence(start=math.inf),
        lambda: Linear(math.nan, 1.0, 3),
        lambda: Linear(1.0, math.inf, 3),
        lambda: Linear(1.0, 2.0, -1),
        lambda: Linear(1.0, 2.0, 2.5),
        lambda: Linear(1.0, 2.0, True),
        lambda: Exponential(1.0, 0.0, 3),
        lambda: Exponential(-1.0, 1.0, 3),
    ],
)
def test_wrong_arguments_raise(make):
    with pytest.raises(st.ArgumentError, match=r"must (be|lie) .*got"):
        make()


def test_a_whole_number_is_moved_by_no_schedule():
    with pytest.raises(st.ArgumentError, match=r"samples must be an int of at least 1, got 1\.0"):
        st.nn.Categorical("gumbel_rao", samples=Linear(1, 10, 10))
    module = st.nn.Categorical("gumbel_rao")
    with pytest.raises(st.ArgumentError, match=r"samples must be an int of at least 1, got 2\.0"):
        module.samples = Linear(2, 4, 10)


def test_a_delay_is_over_where_its_position_and_its_steps_say_so():
    delay = Delay(3)
    for steps, position, over in ((3, 3, True), (5, 3, False), (0, 0, True), (3, 2, False)):
        delay.steps = steps
        delay.position.data.fill_(position)
        assert delay.over is over is bool(delay.value)
    quantize = st.nn.Quantizer(st.grids.Int(2), delay=2)
    x = torch.randn(5)
    done = {"delay.position": torch.tensor(2)}
    assert torch.equal(torch.func.functional_call(quantize, done, x), quantize.values(x))
    assert torch.equal(quantize(x), x)


def test_a_state_dict_of_a_part_leaves_a_schedule_where_it_is():
    net = moved(5)
    state = {"0.weight": torch.zeros(4, 3)}
    assert net.load_state_dict(state, strict=False).missing_keys == ["0.bias"]
    assert net[1].tau.position == 5


@pytest.mark.parametrize("name", ["start", "end", "steps"])
def test_a_constant_stays_what_it_is(name):
    tau = Constant(0.5)
    with pytest.raises(st.ArgumentError, match=f"{name} is .* can't become 2; make another"):
        setattr(tau, name, 2)
    assert tau.value == 0.5
