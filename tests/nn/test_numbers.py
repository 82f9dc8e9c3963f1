"""Numbers of modules: attributes that are read, assigned, kept, compiled."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import straightthrough as st
from straightthrough.nn.base import RuleModule
from straightthrough.nn.schedules import Confidence, Constant, Linear

X = torch.tensor([[-1.6, -0.5, 0.1, 0.5, 2.5], [0.3, 0.2, -0.1, 3.0, -2.0]])
Make = Callable[[Any], RuleModule]

# A number of every kind of module: its name, and the module made with it.
NUMBERS: dict[str, tuple[str, Make]] = {
    "Sign": ("slope", lambda v: st.nn.Sign("tanh", slope=v)),
    "Heaviside": ("slope", lambda v: st.nn.Heaviside(surrogate="sigmoid", slope=v)),
    "Heaviside.threshold": ("threshold", lambda v: st.nn.Heaviside(v)),
    "Clamp.min": ("min", lambda v: st.nn.Clamp(v, 3)),
    "Clamp.max": ("max", lambda v: st.nn.Clamp(-1, v)),
    "Ternary.threshold": ("threshold", lambda v: st.nn.Ternary(v)),
    "Categorical": ("tau", lambda v: st.nn.Categorical("reinmax", tau=v)),
    "CategoricalInteger": ("tau", lambda v: st.nn.CategoricalInteger("reinmax", tau=v)),
    "CategoricalLookup": ("tau", lambda v: st.nn.CategoricalLookup(5, 2, tau=v)),
    "Argmax": ("tau", lambda v: st.nn.Argmax(v)),
    "GumbelSoftmax": ("tau", lambda v: st.nn.GumbelSoftmax(v)),
    "TopK": ("tau", lambda v: st.nn.TopK(2, tau=v)),
    "SampleTopK": ("tau", lambda v: st.nn.SampleTopK(2, tau=v)),
    "Bernoulli": ("tau", lambda v: st.nn.Bernoulli("straight_through", tau=v)),
    "BinaryConcrete": ("tau", lambda v: st.nn.BinaryConcrete(v)),
    "HardConcreteGate": ("tau", lambda v: Gate(tau=v)),
    "HardConcreteGate.zeta": ("zeta", lambda v: Gate(zeta=_and_one(v))),
}
by_number = pytest.mark.parametrize("row", NUMBERS)


class Gate(st.nn.HardConcreteGate):
    """Gates that are called with a tensor, which they multiply."""

    def __init__(self, **options: Any) -> None:
        super().__init__(5, **options)

    def forward(self, x: Tensor) -> Tensor:
        return x * super().forward()


def _and_one(value: Any) -> Any:
    """One more, as zeta lies above 1."""
    if isinstance(value, Linear):
        return Linear(value.start + 1, value.end + 1, value.steps)
    return value + 1


def assigned(row: str, value: Any) -> RuleModule:
    """The module made with another number, to which this one is assigned."""
    name, make = NUMBERS[row]
    module = make(0.5)
    setattr(module, name, getattr(make(value), name))
    return module


def pull(module: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    x = X.clone().requires_grad_()
    y = module(x)
    (y * torch.linspace(-1, 2, y.shape[-1])).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def alike(module: nn.Module, twin: nn.Module) -> bool:
    twin.load_state_dict(module.state_dict(), strict=False)
    return all(map(torch.equal, pull(module), pull(twin)))


@by_number
@pytest.mark.parametrize("kind", [float, np.float32, torch.tensor, lambda v: Linear(v, 3.0, 4)])
def test_what_is_assigned_counts_from_the_next_forward(
    row: str, kind: Callable[[float], Any]
) -> None:
    name, make = NUMBERS[row]
    module = assigned(row, kind(0.25))
    assert not alike(module, make(0.5)) or row.startswith("Bernoulli")
    assert alike(module, make(0.25))
    read = getattr(module, name)
    wanted = getattr(make(0.25), name)
    assert (read.value if isinstance(read, Linear) else read) == pytest.approx(wanted)


def test_the_idiom_of_annealing() -> None:
    module = st.nn.Sign("tanh", slope=1.0)
    slopes = []
    for slope in (1.0, 2.0, 3.0):
        module.slope = slope
        x = torch.zeros(1, requires_grad=True)
        module(x).backward()
        assert x.grad is not None
        slopes.append(x.grad.item())
        assert module.slope == slope
    assert slopes == [1.0, 2.0, 3.0]


def test_a_number_a_tensor_and_a_schedule_replace_each_other() -> None:
    module, tau = st.nn.Argmax(1.0), torch.tensor(0.5)
    for value, buffers, modules in (
        (tau, ["tau"], []),
        (Linear(2.0, 1.0, 10), ["tau.position"], ["tau"]),
        (0.25, [], []),
        (Constant(4.0), ["tau.position"], ["tau"]),
        (tau, ["tau"], []),
        (3, [], []),
    ):
        module.tau = value
        assert module.tau is value or module.tau == value
        assert [name for name, _ in module.named_buffers()] == buffers
        assert [name for name, _ in module.named_children()] == modules
        assert [*module.state_dict()] == buffers
    module.tau = tau
    tau.fill_(0.125)
    assert module.rule == st.relaxations.Softmax(0.125)
    assert float(module.rule.tau) == 0.125


@pytest.mark.parametrize("given", ["gumbel", st.estimators.GumbelST(0.5)])
def test_a_rule_is_assigned_with_all_its_numbers(given: Any) -> None:
    module = st.nn.Categorical("gumbel_rao", samples=3, tau=Linear(2.0, 1.0, 10))
    module.estimator = given
    assert module.estimator == module.rule == st.nn.Categorical(given).rule
    assert module.tau == module.rule.tau
    assert not hasattr(module, "samples")
    assert [*module.children()] == []
    assert alike(module, st.nn.Categorical(given))


def test_a_surrogate_is_assigned() -> None:
    module = st.nn.Sign()
    assert (module.surrogate, module.width) == (st.surrogates.Clipped(), 1.0)
    module.surrogate = st.surrogates.Tanh(2)
    assert alike(module, st.nn.Sign("tanh", slope=2))
    module.slope = 3.0
    assert module.surrogate == st.surrogates.Tanh(3.0)
    module.surrogate = "identity"
    assert module.rule == st.surrogates.Identity()


def test_a_tensor_in_a_rule_that_is_given_is_followed() -> None:
    tau = torch.tensor(2.0)
    made = st.nn.Categorical(st.estimators.StraightThrough(tau))
    given = st.nn.Categorical()
    given.estimator = st.estimators.StraightThrough(tau)
    tau.fill_(0.5)
    for module in (made, given):
        assert dict(module.named_buffers())["tau"] is tau
        assert alike(module, st.nn.Categorical("straight_through", tau=0.5))


def test_ordinary_attributes_are_as_everywhere() -> None:
    module = st.nn.Categorical()
    module.name, module.order, module.head = "x", 3, nn.Linear(1, 1)
    assert (module.name, module.order) == ("x", 3)
    assert dict(module.named_children())["head"] is module.head
    module.dim = 0
    assert module.dim == 0
    with pytest.raises(AttributeError, match="has no attribute 'samples'"):
        _ = module.samples


def test_subclasses_have_attributes_and_numbers_of_their_own() -> None:
    class Annealed(st.nn.Categorical):
        samples: int = 5  # a field of other rules; here the class says what it is

        def __init__(self) -> None:
            self.early = "before the module is one"
            super().__init__("reinmax")
            self.tau = 2.0
            self.samples = 7
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("seen", torch.zeros(()))

    module = Annealed()
    assert (module.tau, module.rule.tau, module.samples, module.early[:6]) == (
        2.0,
        2.0,
        7,
        "before",
    )
    assert [*module.state_dict()] == ["scale", "seen"]
    assert alike(module, st.nn.Categorical(tau=2.0))


@by_number
@pytest.mark.parametrize("kind", [float, torch.tensor, lambda v: Linear(v, 3.0, 4)])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_after_an_assignment_go_their_own_way(
    row: str, kind: Callable[[float], Any], duplicate: Callable[[RuleModule], RuleModule]
) -> None:
    name, make = NUMBERS[row]
    module = assigned(row, kind(0.25))
    twin = duplicate(module)
    assert alike(module, twin)
    setattr(twin, name, getattr(make(0.75), name))
    st.nn.step_schedules(module)
    assert getattr(twin, name) == getattr(make(0.75), name)
    assert alike(twin, make(0.75))


def test_tensors_are_in_the_state_dict_and_keep_their_dtype() -> None:
    module = st.nn.HardConcreteGate(3, tau=torch.tensor(0.1), zeta=torch.tensor(1.3))
    module.to(torch.bfloat16)
    assert module.logits.dtype == torch.bfloat16
    assert (module.tau.dtype, module.zeta.dtype) == (torch.float32, torch.float32)
    for assign in (False, True):
        twin = st.nn.HardConcreteGate(3, tau=torch.tensor(1.0), zeta=torch.tensor(2.0))
        twin.load_state_dict(module.state_dict(), assign=assign)
        assert (twin.rule.tau.item(), twin.zeta.item()) == (module.tau.item(), module.zeta.item())
    on_meta = st.nn.HardConcreteGate(3, tau=torch.tensor(0.1)).to("meta")
    assert on_meta.to_empty(device="cpu").tau.shape == ()


def test_functional_call_takes_a_tensor_for_a_buffer() -> None:
    module = st.nn.Argmax(torch.tensor(1.0))

    def of(tau: Tensor) -> tuple[Tensor, Tensor]:
        return pull(lambda x: torch.func.functional_call(module, {"tau": tau}, (x,)))

    assert all(map(torch.equal, of(torch.tensor(0.25)), pull(st.nn.Argmax(0.25))))


# ---- compiled ----


@by_number
@pytest.mark.parametrize(("kind", "graphs"), [(float, 2), (torch.tensor, 1)])
def test_an_assigned_number_is_compiled_at_most_once_more(
    row: str, kind: Callable[[float], Any], graphs: int
) -> None:
    torch._dynamo.reset()
    name, make = NUMBERS[row]
    module = make(kind(0.9))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, backend=counter)
    for value in (0.9, 0.8, 0.7, 0.6):
        setattr(module, name, getattr(make(kind(value)), name))
        for one, other in zip(pull(compiled), pull(module), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert counter.frame_count <= graphs


def test_an_assigned_rule_is_compiled_anew() -> None:
    torch._dynamo.reset()
    module = st.nn.Sign()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager_decomp_partition")
    for rule in ("clipped", "tanh", st.surrogates.Tanh(2), "identity"):
        module.surrogate = rule
        assert all(map(torch.allclose, pull(compiled), pull(module)))


# ---- checkpoints ----


def saved(model: nn.Module) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    state: dict[str, Tensor] = torch.load(file, weights_only=True)
    return state


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("make", [lambda: Linear(2.0, 1.0, 10), lambda: Confidence(decay=0.5)])
def test_a_checkpoint_from_before_the_schedule_puts_it_at_its_start(
    make: Any, strict: bool
) -> None:
    before = nn.Sequential(nn.Linear(5, 5), st.nn.Argmax(1.0))
    state = saved(before)
    after = nn.Sequential(nn.Linear(5, 5), st.nn.Argmax(make()))
    after(X)
    st.nn.step_schedules(after)
    after(X)
    start = make().value
    assert after[1].rule.tau != start
    after.load_state_dict(state, strict=strict)
    assert after[1].rule.tau == start
    assert torch.equal(after[0].weight, before[0].weight)
    st.nn.step_schedules(after)
    assert after[1].rule.tau == (start if isinstance(after[1].tau, Confidence) else 1.9)


@pytest.mark.parametrize("kept", ["0.tau.position", "1.tau.position"])
def test_of_a_schedule_that_is_shared_a_checkpoint_may_keep_one_name(kept: str) -> None:
    tau = Linear(2.0, 1.0, 10)
    model = nn.Sequential(st.nn.Argmax(tau), st.nn.Categorical("gumbel", tau=tau))
    for _ in range(2):
        model.load_state_dict({kept: torch.tensor(3)}, strict=False)
        assert tau.position == 3
    model.load_state_dict({}, strict=False)
    assert tau.position == 0


def test_other_missing_keys_are_missing_still() -> None:
    scheduled = nn.Sequential(nn.Linear(5, 5), st.nn.Argmax(Linear(2.0, 1.0, 10)))
    with pytest.raises(RuntimeError, match=r'Missing key.*: "0.weight", "0.bias"'):
        scheduled.load_state_dict({})
    with pytest.raises(RuntimeError, match=r'Missing key.*: "tau.running"'):
        st.nn.Argmax(Confidence()).load_state_dict({"tau.position": torch.zeros(())})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*: "1.tau.position"'):
        nn.Sequential(nn.Linear(5, 5), st.nn.Argmax()).load_state_dict(scheduled.state_dict())


SCALES = [
    (st.scales.AbsMean, "factor"),
    (st.scales.RMS, "factor"),
    (st.scales.Fixed, "value"),
    (st.scales.AbsMax, "floor"),
    (st.scales.Learned, "start"),
    (st.scales.Observed, "percentile"),
]


@pytest.mark.parametrize(("scale", "name"), SCALES)
@pytest.mark.parametrize("given", [np.float64(2.0), torch.tensor(2.0, dtype=torch.float64)])
def test_numbers_of_a_scale_become_those_of_python(scale: Any, name: str, given: Any) -> None:
    """Beside float32 they would be of float64, and refused, or none that compiled code reads."""
    made, expected = scale(**{name: given}), scale(**{name: 2.0})
    assert repr(made) == repr(expected)
    for backend in (None, "eager"):
        quantize: Any = st.nn.Quantizer(st.grids.Int(4), made)
        if backend:
            quantize = torch.compile(quantize, backend=backend, fullgraph=True)
        assert torch.equal(quantize(X), st.nn.Quantizer(st.grids.Int(4), expected)(X))


def test_flags_of_grids_and_scales_may_be_those_of_numpy() -> None:
    assert repr(st.grids.Int(4, signed=np.False_)) == repr(st.grids.Int(4, signed=False))
    assert repr(st.scales.AbsMax(token=np.True_)) == repr(st.scales.AbsMax(token=True))
    with pytest.raises(st.ArgumentError, match="narrow must be True or False, got 1"):
        st.grids.Int(4, narrow=1)
