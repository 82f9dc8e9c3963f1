"""The monitor leaves a model as it is, through all that models go through; sinks and picture."""

import copy
import gc
import json
import math
import pickle
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import straightthrough as st
from pictures import check_legible
from straightthrough.audit import JsonLines, Monitor, Observation, TensorBoard
from straightthrough.audit.monitor.plot import draw
from straightthrough.audit.monitor.summary import TITLES, summarize


@pytest.mark.parametrize("training", [True, False])
def test_one_mode_is_observed(training):
    model = nn.Sequential(nn.Linear(3, 4), st.nn.Categorical())
    with Monitor(model, every=1, training=training) as monitor:
        for mode in (True, False):
            model.train(mode)
            with torch.no_grad():
                model(torch.randn(2, 3))
            monitor.step()
    assert {row.step for row in monitor.observations} == {0 if training else 1}
    names = {row.quantity for row in monitor.observations}
    assert names == {"entropy", "code_use", "perplexity"}
    assert {row.operator for row in monitor.observations} == {"1"}


def everything():
    """A model with every kind of operator, some called twice and some on parameters."""
    torch.manual_seed(1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
            self.sign, self.step = st.nn.Sign(), st.nn.Heaviside()
            self.gate = st.nn.HardConcreteGate(8)
            self.bernoulli, self.concrete = st.nn.Bernoulli("gumbel"), st.nn.BinaryConcrete()
            self.categorical, self.gumbel = st.nn.Categorical(), st.nn.GumbelSoftmax(0.5)
            self.lookup, self.top = st.nn.CategoricalLookup(4, 8, "gumbel"), st.nn.TopK(2)
            self.argmax, self.clamp = st.nn.Argmax(dim=1), st.nn.Clamp(-1, 1)
            parametrize.register_parametrization(self.second, "weight", st.nn.Ternary(0.1))

        def forward(self, x):
            h = self.first(x)
            y = self.sign(h) + self.step(h) + self.step(2 * h) + self.clamp(h) * self.gate()
            y = F.relu(self.second(y), inplace=True)
            rows = (h + y).unflatten(-1, (2, 4))
            mask = torch.tensor([True, True, False, True])
            z = self.categorical(rows, mask=mask) + self.gumbel(rows) + self.top(rows)
            z = z + self.argmax(rows) + self.bernoulli(probs=rows.sigmoid())
            return z.sum() + (self.lookup(rows) * self.concrete(logits=y).unsqueeze(1)).sum()

    return Model()


def trained(observe):
    """Return the outputs, gradients and random state of three steps."""
    model = everything()
    torch.manual_seed(2)
    monitor = Monitor(model, every=1) if observe else None
    results = []
    for _ in range(3):
        value = model(torch.randn(5, 6))
        model.zero_grad()
        value.backward()
        results += [value.detach(), *(p.grad.clone() for p in model.parameters())]
        if monitor:
            monitor.step()
    return [*results, torch.get_rng_state()], monitor


def test_values_gradients_and_random_state_are_untouched():
    plain, _ = trained(observe=False)
    watched, monitor = trained(observe=True)
    assert len({row.operator for row in monitor.observations}) == 12
    assert all(map(torch.equal, plain, watched))
    assert all(math.isfinite(row.value) for row in monitor.observations)


def test_removed_hooks_leave_nothing():
    model = everything()
    before = len(dict(model.named_parameters()))
    with Monitor(model) as monitor:
        assert any(module._forward_hooks for module in model.modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(module, name) for module in model.modules() for name in hooks)
    model(torch.randn(5, 6)).backward()
    monitor.step()
    assert monitor.observations == []
    assert len(dict(model.named_parameters())) == before
    copy.deepcopy(model)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_watched_model_is_not_watched(duplicate):
    model = nn.Sequential(nn.Linear(6, 8), st.nn.Sign(), st.nn.CategoricalInteger())
    monitor = Monitor(model, every=1)
    twin = duplicate(model)
    x = torch.randn(5, 6)
    twin(x).sum().backward()
    monitor.step()
    assert monitor.observations == []
    model(x).sum().backward()
    monitor.step()
    assert monitor.observations
    monitor.remove()


def test_the_graph_dies_with_its_output():
    # A rule that saves its input.
    model = nn.Sequential(nn.Linear(3, 4), st.nn.Sign("tanh"), st.nn.Categorical())
    monitor = Monitor(model, every=1)
    gc.collect()
    gc.disable()
    try:
        x = torch.randn(2, 3)
        hidden = model[0](x)
        alive = weakref.ref(hidden)
        y = model[2](model[1](hidden))
        del hidden
        assert alive() is not None  # the graph holds it
        del y
        assert alive() is None
    finally:
        gc.enable()
    monitor.remove()


@pytest.mark.parametrize("loss", [torch.sum, lambda y: ((2 + y) ** 2).sum()])
def test_double_backward(loss):
    def second(sign):
        x = torch.tensor([0.3, 0.4], requires_grad=True)
        (g,) = torch.autograd.grad(loss(sign(x)), x, create_graph=True)
        g.sum().backward()
        return x.grad

    unit = st.nn.Sign("tanh")
    with Monitor(unit, every=1) as monitor:
        seen = second(unit)
        monitor.step()
    assert torch.equal(seen, second(unit))
    assert Observation(0, "Sign", "saturation", 0.0) in monitor.observations


def test_torch_func_is_let_through():
    unit = st.nn.Sign("tanh")
    with Monitor(unit, every=1) as monitor:
        x = torch.randn(3)
        seen = torch.func.grad(lambda x: unit(x).sum())(x)
        torch.func.vmap(unit)(x)
        monitor.step()
    assert monitor.observations == []
    torch.testing.assert_close(seen, 1 - x.tanh() ** 2)


def test_checkpointed_blocks():
    block = nn.Sequential(nn.Linear(3, 3), st.nn.Sign())
    with Monitor(block, every=1) as monitor:
        y = checkpoint(block, torch.randn(8, 3), use_reentrant=False)
        (y * torch.randn(8, 3)).sum().backward()
        monitor.step()
    assert {row.quantity for row in monitor.observations} == {"saturation", "gradient_snr"}


# Dynamo looks whether a tensor has a gradient, and torch warns of that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_models_are_observed():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(4, 4), st.nn.Sign())
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.randn(3, 4)
    with Monitor(model, every=2) as monitor:
        for _ in range(3):
            value = compiled(x)
            value.sum().backward()
            monitor.step()
    assert torch.equal(value, model(x))
    assert {row.step for row in monitor.observations} == {0, 2}
    assert (2, "1", "flip_rate", 0.0) in {
        (r.step, r.operator, r.quantity, r.value) for r in monitor.observations
    }


def test_json_lines(tmp_path):
    path = tmp_path / "run.jsonl"
    calls = []
    sinks = [JsonLines(path), calls.append]
    with Monitor(unit := st.nn.Round(), every=2, sinks=sinks) as monitor:
        for _ in range(3):
            unit(torch.tensor([0.2, 1.7]))
            monitor.step()
    assert [seen for call in calls for seen in call] == monitor.observations
    assert len(calls) == 2
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [Observation(**row) for row in rows] == monitor.observations
    assert rows[0] == {"step": 0, "operator": "Round", "quantity": "sparsity", "value": 0.5}


def test_a_sink_that_raises_leaves_the_step_recorded_once():
    def fail(observations):
        raise OSError("full")

    with Monitor(unit := st.nn.Round(), every=1, sinks=[fail]) as monitor:
        for _ in range(2):
            unit(torch.tensor([0.2, 1.7]))
            with pytest.raises(OSError, match="full"):
                monitor.step()
    assert [(seen.step, seen.quantity) for seen in monitor.observations] == [
        (0, "sparsity"),
        (1, "sparsity"),
        (1, "flip_rate"),
    ]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = nn.Sequential(st.nn.Round())
    with Monitor(model, every=2, sinks=[TensorBoard(tmp_path)]) as monitor:
        for value in (0.2, 1.7, 1.7):
            model(torch.tensor([value]))
            monitor.step()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"0/sparsity", "0/flip_rate"}
    assert [(e.step, e.value) for e in events.Scalars("0/sparsity")] == [(0, 1.0), (2, 0.0)]
    assert len(monitor.observations) == 3


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(st.StraightThroughError, match=r"straightthrough\[tensorboard\]"):
        TensorBoard(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(st.StraightThroughError, match=r"straightthrough\[studies\]"):
        Monitor(st.nn.Sign()).plot()


def test_plot_has_a_row_an_operator_and_a_column_a_quantity(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), st.nn.Sign(), st.nn.Categorical())
    with Monitor(model, every=1) as monitor:
        for _ in range(3):
            model(torch.randn(5, 3)).square().sum().backward()
            monitor.step()
    figure = monitor.plot(tmp_path / "monitor.png")
    assert (tmp_path / "monitor.png").read_bytes().startswith(b"\x89PNG")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [
        "saturation",
        "gradient |mean| / std",
        "flip rate",
        "entropy (nats)",
        "code use",
        "perplexity",
    ]
    assert len(figure.axes) == 2 * len(titles)
    drawn = figure.axes[2].lines[0].get_xydata().tolist()
    assert drawn == [
        [row.step, row.value]
        for row in monitor.observations
        if (row.operator, row.quantity) == ("1", "flip_rate")
    ]
    assert not figure.axes[3].lines  # a sign has no entropy


def test_the_summary_has_a_row_an_operator_with_the_first_value_and_the_last():
    model = nn.Sequential(nn.Linear(3, 4), st.nn.Sign(), st.nn.Categorical())
    with Monitor(model, every=2) as monitor:
        for _ in range(5):
            model(torch.randn(5, 3)).square().sum().backward()
            monitor.step()
    head, *rows, foot = monitor.summary().splitlines()
    assert head.split()[:2] == ["operator", "saturation"]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert foot == "steps 0 to 4, 3 observed: first -> last"
    seen = [
        row.value
        for row in monitor.observations
        if (row.operator, row.quantity) == ("2", "entropy")
    ]
    assert len(seen) == 3
    assert f"{seen[0]:.2g} -> {seen[-1]:.2g}" in rows[1]
    assert "entropy (nats)" in head
    with Monitor(unit := st.nn.Round(), every=1) as once:
        unit(torch.tensor([0.2, 1.7]))
        once.step()
    assert once.summary().splitlines()[1].split() == ["Round", "0.5"]


def test_oscillations_have_a_column_and_counts_all_digits_before_the_point():
    model = st.nn.prepare(nn.Sequential(nn.Linear(20, 3)), [("*", "w4")])
    tracker = st.nn.Oscillations(model)
    with Monitor(model, every=1) as monitor:
        for _ in range(3):
            model(torch.randn(5, 20)).sum().backward()
            tracker.step()
            monitor.step()
    seen = {row.quantity for row in monitor.observations}
    assert {"oscillation", "frozen"} <= seen <= set(TITLES)
    assert "oscillation" in monitor.summary()
    ids = [Observation(step, "vq", "unique_ids", value) for step, value in ((0, 157.0), (1, 5e4))]
    assert "157 -> 50000" in summarize(ids)


def test_steps_are_whole_numbers():
    figure = draw([Observation(7, "vq", "dead_codes", 1.0)], None)
    low, high = figure.axes[0].get_xlim()
    assert [at for at in figure.axes[0].get_xticks() if low <= at <= high] == [7]


@pytest.mark.parametrize(
    "name", ["vq", "an_operator_whose_name_is_long", "encoder.layers.0.quantizer"]
)
@pytest.mark.parametrize("value", [0.0, 0.4, 1000.0])
def test_the_words_of_a_plot_can_be_read(name, value):
    seen = [Observation(step, name, "dead_codes", value) for step in range(3)]
    figure = draw(seen, None)
    check_legible(figure)
    box = figure.axes[0].get_window_extent()
    assert min(box.width, box.height) > 0.4 * figure.dpi
    offset = figure.axes[0].yaxis.get_offset_text()
    assert offset.get_text() == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Monitor(nn.Linear(2, 2)), "must hold an operator of st.nn, got a Linear"),
        (lambda: Monitor(st.nn.Sign(), every=0), "every must be an int of at least 1, got 0"),
        (lambda: Monitor([st.nn.Sign()]), "model must be a torch.nn.Module, got list"),
        (lambda: Monitor(st.nn.Sign(), sinks=print), "sinks must be a list of functions, got <"),
        (lambda: Monitor(st.nn.Sign(), sinks="log"), "be a list of functions, got 'log'"),
        (lambda: Monitor(st.nn.Sign(), elements=1.5), "elements must be an int of at least 1"),
        (lambda: Monitor(st.nn.Sign()).plot(), "nothing was observed yet"),
        (lambda: Monitor(st.nn.Sign()).summary(), "nothing was observed yet"),
    ],
)
def test_wrong_use_raises(call, message):
    with pytest.raises(st.ArgumentError, match=message):
        call()


def test_a_training_that_goes_on_numbers_its_steps_from_there():
    model = nn.Sequential(nn.Linear(3, 4), st.nn.Categorical())
    with Monitor(model, every=4, start=6) as monitor:
        for _ in range(8):
            assert {reader.active for reader in monitor._readers.values()} == {
                monitor._step % 4 == 0
            }
            model(torch.randn(2, 3))
            monitor.step()
    assert {row.step for row in monitor.observations} == {8, 12}
    with pytest.raises(st.ArgumentError, match="start must be an int of at least 0, got -1"):
        Monitor(model, start=-1)


def test_a_dimension_that_is_assigned_is_the_one_observed():
    """Entropies were those of rows along the dimension that the module had before."""
    logits, entropies = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), []
    for module in (st.nn.Categorical(dim=0), st.nn.Categorical()):
        with Monitor(module, every=1) as monitor:
            module.dim = 0
            module(logits.clone().requires_grad_()).square().sum().backward()
            monitor.step()
        entropies.append({s.quantity: s.value for s in monitor.observations}["entropy"])
    p = logits.softmax(0)
    assert entropies == [pytest.approx(float(-(p * p.log()).sum(0).mean()))] * 2


def test_a_forward_of_ones_own_may_take_more():
    class Scaled(st.nn.Sign):
        def forward(self, x, scale):
            return scale * super().forward(x)

    class Masked(st.nn.Categorical):
        def forward(self, logits, mask):
            return super().forward(logits, mask=mask)

    x = torch.randn(8, 3)
    for module, more in ((Scaled(), 2.0), (Masked(), torch.ones(8, 3, dtype=torch.bool))):
        with Monitor(module, every=1) as monitor:
            module(x.clone().requires_grad_(), more).sum().backward()
            monitor.step()
        assert "saturation" in {seen.quantity for seen in monitor.observations}
