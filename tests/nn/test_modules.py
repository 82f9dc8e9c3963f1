"""Modules: the function in training, free of noise in `eval()`, a rule whose fields may move."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend

import straightthrough as st
from straightthrough.core.errors import FLOATING
from straightthrough.core.registry import OPERATORS
from straightthrough.nn.base import RuleModule
from straightthrough.nn.schedules import Constant, Linear

X = torch.tensor([[-1.6, -0.5, 0.0, 0.5, 2.5], [0.3, 0.2, -0.1, 3.0, -2.0]])
MASK = torch.tensor([True, True, True, False, True])


class OfLogRate(st.nn.Poisson):
    """The module on the parameter that may be negative."""

    def forward(self, x):
        return super().forward(log_rate=x)


# One row a module: how it is made, and the function that it is in training.
MODULES = {
    "Sign": (lambda: st.nn.Sign("tanh", slope=2.0), lambda x: st.sign(x, surrogate=tanh(2.0))),
    "Heaviside": (
        lambda: st.nn.Heaviside(0.25, surrogate="atan"),
        lambda x: st.heaviside(x, 0.25, surrogate="atan"),
    ),
    "Round": (lambda: st.nn.Round(), st.round),
    "Floor": (lambda: st.nn.Floor("clipped"), lambda x: st.floor(x, surrogate="clipped")),
    "Ceil": (lambda: st.nn.Ceil("clipped"), lambda x: st.ceil(x, surrogate="clipped")),
    "Trunc": (lambda: st.nn.Trunc("clipped"), lambda x: st.trunc(x, surrogate="clipped")),
    "Clamp": (
        lambda: st.nn.Clamp(-1, 2, surrogate="clipped"),
        lambda x: st.clamp(x, -1, 2, surrogate="clipped"),
    ),
    "Ternary": (lambda: st.nn.Ternary(0.5), lambda x: st.ternary(x, 0.5)),
    "Categorical": (
        lambda: st.nn.Categorical("gumbel", tau=0.5),
        lambda x: st.categorical(x, st.estimators.GumbelST(0.5)),
    ),
    "CategoricalInteger": (
        lambda: st.nn.CategoricalInteger("reinmax", tau=1.5),
        lambda x: st.categorical_integer(x, st.estimators.ReinMax(1.5)),
    ),
    "Argmax": (lambda: st.nn.Argmax(tau=0.5), lambda x: st.argmax(x, tau=0.5)),
    "GumbelSoftmax": (lambda: st.nn.GumbelSoftmax(0.5), lambda x: st.gumbel_softmax(x, 0.5)),
    "TopK": (lambda: st.nn.TopK(2, tau=0.5), lambda x: st.topk(x, 2, tau=0.5)),
    "SampleTopK": (
        lambda: st.nn.SampleTopK(2, "laplace", tau=0.5),
        lambda x: st.sample_topk(x, 2, "laplace", tau=0.5),
    ),
    "SampleSubset": (
        lambda: st.nn.SampleSubset(2, "second_order", steps=2),
        lambda x: st.sample_subset(x, 2, "second_order", steps=2),
    ),
    "Bernoulli": (
        lambda: st.nn.Bernoulli("straight_through", tau=2.0),
        lambda x: st.bernoulli(x, estimator=st.estimators.StraightThrough(2.0)),
    ),
    "BinaryConcrete": (lambda: st.nn.BinaryConcrete(0.5), lambda x: st.binary_concrete(x, tau=0.5)),
    "Poisson": (
        lambda: OfLogRate(order=3),
        lambda x: st.poisson(log_rate=x, estimator=st.estimators.Fini(3)),
    ),
    "Binomial": (lambda: st.nn.Binomial(9), lambda x: st.binomial(x, total_count=9)),
    "Geometric": (lambda: st.nn.Geometric(), st.geometric),
    "NegativeBinomial": (
        lambda: st.nn.NegativeBinomial(2.5, order=1),
        lambda x: st.negative_binomial(x, total_count=2.5, estimator=st.estimators.Fini(1)),
    ),
}
ROWS = ["Categorical", "Argmax", "GumbelSoftmax", "TopK", "SampleTopK", "SampleSubset"]
COUNTS = ["Poisson", "Binomial", "Geometric", "NegativeBinomial"]
DRAWN = ["Categorical", "CategoricalInteger", "GumbelSoftmax", "Bernoulli", "BinaryConcrete"]
SUBSETS = ["SampleTopK", "SampleSubset"]
NOISY = [*DRAWN, *COUNTS, *SUBSETS]


def tanh(slope):
    return st.surrogates.Tanh(slope)


def value_and_gradient(function, x=X):
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    y = function(x)
    (y * torch.linspace(-1, 2, y.shape[-1], dtype=y.dtype)).sum().backward()
    return y.detach(), torch.zeros_like(x) if x.grad is None else x.grad


def test_every_module_has_a_row():
    own = {"ControlVariate", "HardConcreteGate", "CategoricalLookup", "Quantizer", "Codebook"}
    own |= {"Solve", "TopKRouter", "CAGE", "Oscillation", "Oscillations"}
    own |= {"VectorQuantizer", "ResidualVQ", "GroupedVQ", "FSQ", "LFQ"}  # test_quantizers.py
    public = {name: getattr(st.nn, name) for name in st.nn.__all__}
    classes = {
        name
        for name, value in public.items()
        if inspect.isclass(value) and issubclass(value, torch.nn.Module)
    }
    assert classes == set(MODULES) | own


@pytest.mark.parametrize("name", MODULES)
def test_in_training_it_is_the_function(name):
    make, function = MODULES[name]
    for ours, theirs in zip(value_and_gradient(make()), value_and_gradient(function), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", MODULES)
def test_defaults_are_the_functions_own(name):
    record = OPERATORS[{"TopK": "topk", "SampleTopK": "sample_topk"}.get(name, snake(name))]
    required = {"Clamp": (-1.0, 1.0), "Ternary": (0.5,), **dict.fromkeys(("TopK", *SUBSETS), (2,))}
    required |= {"Binomial": (9,), "NegativeBinomial": (2.5,)}
    module = getattr(st.nn, name)(*required.get(name, ()))
    if record.default is not None:
        assert module.rule == record.default
    else:
        tau = inspect.signature(record.function).parameters["tau"].default
        assert module.rule.tau == tau


def snake(name):
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", FLOATING)
def test_eval_draws_nothing_and_keeps_dtype(name, dtype):
    module = MODULES[name][0]().eval()
    state = torch.get_rng_state()
    first, second = module(X.to(dtype)), module(X.to(dtype))
    assert torch.equal(first, second)
    assert first.dtype == dtype
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NOISY)
def test_training_draws_each_time_anew(name):
    module, x = MODULES[name][0](), torch.zeros(64, 8)
    assert not torch.equal(module(x), module(x))


LARGEST = F.one_hot(torch.tensor([4, 3]), 5).float()
EVAL = {
    "Categorical": (lambda: st.nn.Categorical(), LARGEST),
    "CategoricalInteger": (lambda: st.nn.CategoricalInteger(), torch.tensor([4.0, 3.0])),
    "GumbelSoftmax": (lambda: st.nn.GumbelSoftmax(0.5), torch.softmax(2 * X, -1)),
    "GumbelSoftmax, hard": (lambda: st.nn.GumbelSoftmax(0.5, hard=True), LARGEST),
    "Bernoulli": (lambda: st.nn.Bernoulli(), (X > 0).float()),
    "BinaryConcrete": (lambda: st.nn.BinaryConcrete(0.5), torch.sigmoid(2 * X)),
    "Poisson": (lambda: OfLogRate(), X.exp().round()),
    "Binomial": (lambda: st.nn.Binomial(9), (9 * torch.sigmoid(X)).round()),
    "Geometric": (lambda: st.nn.Geometric(), (-X).exp().round()),
    "NegativeBinomial": (lambda: st.nn.NegativeBinomial(2.5), (2.5 * X.exp()).round()),
    "BinaryConcrete, hard": (lambda: st.nn.BinaryConcrete(hard=True), (X > 0).float()),
}


@pytest.mark.parametrize("name", EVAL)
def test_values_in_eval(name):
    make, expected = EVAL[name]
    torch.testing.assert_close(make().eval()(X), expected)


def test_eval_of_probabilities():
    probs = torch.tensor([0.0, 0.4, 0.5, 0.6, 1.0])
    hard = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])
    assert torch.equal(st.nn.Bernoulli().eval()(probs=probs), hard)
    assert torch.equal(st.nn.BinaryConcrete(hard=True).eval()(probs=probs), hard)
    soft = st.nn.BinaryConcrete(0.5).eval()(probs=probs)
    torch.testing.assert_close(soft, torch.tensor([0.0, 4 / 13, 0.5, 9 / 13, 1.0]))


def test_eval_of_certain_probabilities_has_no_gradient_as_in_training():
    probs = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    st.nn.BinaryConcrete(0.5).eval()(probs=probs).sum().backward()
    assert probs.grad.tolist() == [0.0, 2.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_eval_at_a_low_temperature_rounds_half_precision_once(dtype):
    logits = torch.tensor([[1000.0, 0.0, -3.0], [20.125, 20.0, 19.875]], dtype=dtype)
    wide = logits.double() / 0.01
    relaxed = st.nn.GumbelSoftmax(0.01).eval()
    torch.testing.assert_close(relaxed(logits), wide.softmax(-1).to(dtype))
    torch.testing.assert_close(relaxed(logits.T).T, torch.softmax(wide.T, -1).to(dtype).T)
    gate = st.nn.BinaryConcrete(0.01).eval()
    small = logits / 4096
    torch.testing.assert_close(gate(small), torch.sigmoid(small.double() / 0.01).to(dtype))


def test_eval_refuses_class_numbers_that_the_dtype_has_not_as_in_training():
    logits = F.one_hot(torch.tensor([999]), 1000).bfloat16()
    for training in (True, False):
        with pytest.raises(st.DtypeError, match="257 classes"):
            st.nn.CategoricalInteger().train(training)(logits)


@pytest.mark.parametrize("name", COUNTS)
def test_eval_of_counts_has_the_gradient_of_the_mean(name):
    module = EVAL[name][0]()
    got, wanted = X.clone().requires_grad_(), X.clone().requires_grad_()
    module.eval()(got).sum().backward()
    means = {
        "Poisson": wanted.exp(),
        "Binomial": 9 * wanted.sigmoid(),
        "Geometric": (-wanted).exp(),
        "NegativeBinomial": 2.5 * wanted.exp(),
    }
    means[name].sum().backward()
    torch.testing.assert_close(got.grad, wanted.grad)
    assert st.nn.Poisson().eval()(torch.tensor([math.nan])).isnan().all()


@pytest.mark.parametrize("make", [st.nn.Bernoulli, lambda: st.nn.BinaryConcrete(hard=True)])
def test_eval_of_nan_is_nan_as_in_training(make):
    module, x = make(), torch.tensor([math.nan, 1.0])
    assert module(x)[0].isnan()
    assert module.eval()(x)[0].isnan()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [st.nn.Bernoulli, st.nn.BinaryConcrete])
def test_exactly_one_parameter(make, training):
    module = make().train(training)
    with pytest.raises(st.ArgumentError, match="exactly one"):
        module(X, probs=X)
    with pytest.raises(st.ArgumentError, match="exactly one"):
        module()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_dim_and_mask(name, training):
    module = MODULES[name][0]().train(training)
    module.dim = 0
    torch.manual_seed(0)
    across = module(X.T, mask=MASK[:, None])
    module.dim = -1
    torch.manual_seed(0)
    torch.testing.assert_close(across.T, module(X, mask=MASK))
    assert torch.equal(across[3], torch.zeros(2))


def test_gate_in_training_is_hard_concrete():
    for hard in (False, True):
        gate = st.nn.HardConcreteGate((50, 20), 0.7, tau=0.5, gamma=-0.2, zeta=1.3, hard=hard)
        torch.manual_seed(0)
        ours = gate()
        torch.manual_seed(0)
        logits = torch.full((50, 20), math.log(0.7 / 0.3))
        theirs = st.hard_concrete(logits, tau=0.5, gamma=-0.2, zeta=1.3, hard=hard)
        torch.testing.assert_close(ours, theirs)
        ours.sum().backward()
        assert gate.logits.grad.abs().sum() > 0


@pytest.mark.parametrize("hard", [False, True])
def test_l0_is_the_expected_number_of_open_gates(hard):
    gate = st.nn.HardConcreteGate(4000, probs=0.3, hard=hard)
    torch.manual_seed(0)
    with torch.no_grad():
        counts = torch.stack([(gate() != 0).sum().float() for _ in range(25)])
        expected = gate.l0().item()
    # 100,000 gates: five standard deviations of a mean of 25 counts.
    tolerance = 5 * math.sqrt(expected * (1 - expected / 4000) / 25)
    assert counts.mean().item() == pytest.approx(expected, abs=tolerance)


def test_gate_in_eval_and_its_mean():
    gate = st.nn.HardConcreteGate(4)
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([-9.0, -0.5, 0.5, 9.0]))
    mean = (torch.sigmoid(gate.logits) * 1.2 - 0.1).clamp(0, 1)
    torch.testing.assert_close(gate.mean(), mean)
    torch.testing.assert_close(gate.eval()(), mean)
    gate.hard = True
    assert gate().tolist() == [0.0, 0.0, 1.0, 1.0]


def test_gate_shapes_dtype_and_reset():
    gate = st.nn.HardConcreteGate([2, 3], probs=0.9, dtype=torch.float64)
    assert (gate().shape, gate().dtype) == ((2, 3), torch.float64)
    torch.testing.assert_close(
        torch.sigmoid(gate.logits), torch.full((2, 3), 0.9, dtype=torch.float64)
    )
    with torch.no_grad():
        gate.logits.zero_()
    gate.reset_parameters()
    torch.testing.assert_close(gate.l0().item(), 6 * st.l0_norm(gate.logits)[0, 0].item())
    many = st.nn.HardConcreteGate(100_000, probs=0.9, dtype=torch.float16)
    assert many.l0().item() == pytest.approx(97_803, rel=1e-3), "which float16 has not"


SCHEDULED = {
    "Sign": lambda s: st.nn.Sign("tanh", slope=s),
    "Sign of a rule without defaults": lambda s: st.nn.Sign("error_decay", t=s),
    "Heaviside of an instance": lambda s: st.nn.Heaviside(surrogate=tanh(7.0), slope=s),
    "Categorical": lambda s: st.nn.Categorical("reinmax", tau=s),
    "CategoricalInteger": lambda s: st.nn.CategoricalInteger("reinmax", tau=s),
    "CategoricalLookup": lambda s: st.nn.CategoricalLookup(5, 2, "gumbel", tau=s),
    "Argmax": lambda s: st.nn.Argmax(s),
    "GumbelSoftmax": lambda s: st.nn.GumbelSoftmax(tau=s),
    "TopK": lambda s: st.nn.TopK(2, tau=s),
    "SampleTopK": lambda s: st.nn.SampleTopK(2, tau=s),
    "Bernoulli": lambda s: st.nn.Bernoulli("straight_through", tau=s),
    "BinaryConcrete": lambda s: st.nn.BinaryConcrete(s),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_schedule_is_the_constant_of_its_present_value(name):
    module, halfway = SCHEDULED[name](Linear(1.0, 3.0, 2)), SCHEDULED[name](2.0)
    halfway.load_state_dict(module.state_dict(), strict=False)
    at_start = value_and_gradient(module)[1]
    st.nn.step_schedules(module)
    assert module.rule == halfway.rule
    now = value_and_gradient(module)
    assert all(map(torch.equal, now, value_and_gradient(halfway)))
    assert not torch.equal(now[1], at_start)


def test_a_gates_temperature_follows_a_schedule():
    gate = st.nn.HardConcreteGate(3, tau=Linear(1.0, 0.5, 1))
    st.nn.step_schedules(gate)
    assert torch.equal(gate.l0(), st.l0_norm(gate.logits, tau=0.5).sum())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.nn.Sign("tahn"), "did you mean 'tanh'"),
        (lambda: st.nn.Sign("reinmax"), "unknown here"),
        (lambda: st.nn.Sign("tanh", alpha=2.0), "no field of Tanh is named alpha; it has slope"),
        (lambda: st.nn.Sign("identity", slope=2.0), "it has none"),
        (lambda: st.nn.Sign("error_decay"), "argument without a default"),
        (lambda: st.nn.Categorical("tanh"), "unknown here"),
        (lambda: st.nn.Categorical(tau=0.0), "tau must be above 0"),
        (lambda: st.nn.Categorical(tau=Linear(1.0, 0.0, 5)), "tau must be above 0"),
        (lambda: st.nn.Argmax(Constant(-1.0)), "tau must be above 0"),
        (lambda: st.nn.GumbelSoftmax("cold"), "tau must be a finite number"),
        (lambda: st.nn.TopK(2, "gumbel"), "unknown here"),
        (lambda: st.nn.SampleTopK(2, "simple"), "unknown here"),
        (lambda: st.nn.SampleSubset(2, "reinmax"), "unknown here"),
        (lambda: st.nn.SampleSubset(2, "second_order", steps=-1), "steps must be"),
        (lambda: st.nn.HardConcreteGate(3, probs=1.0), r"probs must lie in \(0, 1\)"),
        (lambda: st.nn.HardConcreteGate(3, gamma=0.5)(), "gamma must be below 0"),
    ],
)
def test_wrong_arguments_raise_when_the_module_is_made(make, message):
    with pytest.raises(st.ArgumentError, match=message):
        make()


def test_repr_shows_arguments_rule_and_schedule():
    shown = repr(st.nn.Categorical("reinmax", dim=1, tau=Linear(2.0, 1.0, 100)))
    assert "estimator=ReinMax(tau=2.0), dim=1" in shown
    assert "(tau): Linear(2.0 -> 1.0, position 0 of 100)" in shown
    assert repr(st.nn.Heaviside(0.5)) == "Heaviside(threshold=0.5, surrogate=Sigmoid(slope=4.0))"
    assert "hard=True" in repr(st.nn.GumbelSoftmax(hard=True))
    assert "(2, 3)" in repr(st.nn.HardConcreteGate((2, 3)))


@pytest.mark.parametrize("name", SCHEDULED)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same(name, duplicate):
    module = SCHEDULED[name](Linear(1.0, 3.0, 2))
    st.nn.step_schedules(module)
    pairs = zip(value_and_gradient(module), value_and_gradient(duplicate(module)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SCHEDULED)
def test_compiles_whole_and_once_for_all_values(name, training):
    torch._dynamo.reset()
    module: RuleModule = SCHEDULED[name](Linear(1.0, 3.0, 4)).train(training)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for _ in range(6):  # to the end, and beyond
        value, gradient = value_and_gradient(compiled)
        eager_value, eager_gradient = value_and_gradient(module)
        torch.testing.assert_close(value, eager_value)  # a kernel rounds its own way
        torch.testing.assert_close(gradient, eager_gradient)
        st.nn.step_schedules(module)
    assert counter.frame_count == 1
