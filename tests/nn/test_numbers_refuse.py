"""What modules refuse, where they are made and where something is assigned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import straightthrough as st
from straightthrough.nn.schedules import Constant, Linear


@pytest.mark.parametrize(
    ("make", "name", "value", "message"),
    [
        (st.nn.GumbelSoftmax, "tau", 0.0, "tau must be above 0, got 0.0"),
        (st.nn.GumbelSoftmax, "tau", torch.tensor(-1.0), "tau must be above 0"),
        (st.nn.GumbelSoftmax, "tau", Linear(1.0, 0.0, 5), "tau must be above 0"),
        (st.nn.GumbelSoftmax, "tau", torch.ones(2), "0-d tensor"),
        (st.nn.GumbelSoftmax, "tau", nn.Parameter(torch.tensor(1.0)), "gets no gradient"),
        (st.nn.GumbelSoftmax, "tau", "cold", "tau must be a finite number"),
        (st.nn.HardConcreteGate, "gamma", 0.5, "gamma must be below 0"),
        (st.nn.HardConcreteGate, "zeta", Linear(1.5, 0.5, 3), "zeta above 1"),
        (st.nn.HardConcreteGate, "probs", 1.0, r"probs must lie in \(0, 1\), got 1.0"),
        (st.nn.TopK, "k", 0, "k must be an int of at least 1, got 0"),
        (st.nn.TopK, "k", Constant(2.0), "k must be an int"),
        (st.nn.SampleSubset, "k", 0, "k must be an int of at least 1, got 0"),
        (st.nn.SampleSubset, "estimator", "reinmax", "estimator='reinmax' is unknown here"),
        (st.nn.SampleTopK, "relaxation", "simple", "relaxation='simple' is unknown here"),
        (st.nn.Binomial, "total_count", 0, "total_count must be an int in"),
        (st.nn.NegativeBinomial, "total_count", 0, "total_count must be above 0, got 0"),
        (st.nn.Poisson, "order", 4, "order must be 1, 2 or 3, got 4"),
        (st.nn.Ternary, "threshold", -1, "threshold must be at least 0, got -1"),
        (st.nn.Heaviside, "threshold", float("nan"), "threshold must be a finite number"),
        (st.nn.Heaviside, "threshold", nn.Parameter(torch.tensor(1.0)), "take it off before"),
        (st.nn.Sign, "surrogate", "reinmax", "surrogate='reinmax' is unknown here"),
        (st.nn.Categorical, "estimator", "tanh", "estimator='tanh' is unknown here"),
        (
            st.nn.Categorical,
            "samples",
            3,
            r"has no samples: ReinMax\(tau=1.0\) has tau",
        ),
        (st.nn.Sign, "alpha", 3.0, r"Sign has no alpha: Clipped\(width=1.0\) has width"),
        (st.nn.Round, "slope", 3.0, r"Round has no slope: Identity\(\) has no fields"),
        (st.nn.Sign, "estimator", "reinmax", "Sign has no estimator"),
        (st.nn.Argmax, "estimator", "reinmax", "Argmax has no estimator: Softmax.* has tau"),
        (st.nn.Categorical, "control", 3, "control must be a ControlVariate or None, got 3"),
        (st.nn.Solve, "solver", 3, "solver must be a function of theta .* got int"),
        (st.nn.Solve, "event_dim", 0, "event_dim must be an int of at least 1, got 0"),
        (st.nn.Clamp, "min", 2, "min must be at most max, got min=2 and max=1"),
        (st.nn.Clamp, "max", -1.5, "min must be at most max, got min=-1 and max=-1.5"),
        (st.nn.Clamp, "max", torch.tensor(-2.0), "min must be at most max"),
        (st.nn.Clamp, "min", Linear(0.0, 2.0, 3), "min must be at most max, got min=2.0 and max=1"),
        *[
            (module, "dim", value, f"dim must be an int, got {value!r}")
            for module, value in [
                (st.nn.Categorical, "a"),
                (st.nn.CategoricalInteger, None),
                (st.nn.CategoricalLookup, 1.5),
                (st.nn.Argmax, True),
                (st.nn.GumbelSoftmax, "a"),
                (st.nn.TopK, "a"),
                (st.nn.SampleTopK, "a"),
                (st.nn.SampleSubset, "a"),
            ]
        ],
    ],
)
def test_assignment_is_checked_and_leaves_what_was_there(
    make: Any, name: str, value: Any, message: str
) -> None:
    required = {st.nn.TopK: (2,), st.nn.Binomial: (9,), st.nn.NegativeBinomial: (2.5,)}
    required |= {st.nn.SampleTopK: (2,), st.nn.SampleSubset: (2,), st.nn.Clamp: (-1, 1)}
    required |= {st.nn.CategoricalLookup: (4, 2), st.nn.Solve: (torch.nn.Identity(),)}
    required |= {st.nn.Ternary: (0.5,), st.nn.HardConcreteGate: (3,)}
    module = make(*required.get(make, ()))
    before = (repr(module), getattr(module, name, None))
    with pytest.raises(st.ArgumentError, match=message):
        setattr(module, name, value)
    assert (repr(module), getattr(module, name, None)) == before


@pytest.mark.parametrize(
    ("make", "name", "own"),
    [
        (lambda: st.nn.Quantizer(st.grids.Int(4)), "estimator", "rule"),
        (lambda: st.nn.Sign(), "estimator", "surrogate"),
        (lambda: st.nn.Categorical(), "relaxation", "estimator"),
        (lambda: st.nn.TopK(2), "surrogate", "relaxation"),
    ],
)
def test_a_rule_by_the_name_of_another_says_its_own(make: Any, name: str, own: str) -> None:
    with pytest.raises(st.ArgumentError, match=f"has no {name}; assign its {own}$"):
        setattr(make(), name, "ste")


@pytest.mark.parametrize("tau", [0.5, torch.tensor(0.5), st.nn.schedules.Linear(1, 2, steps=3)])
@pytest.mark.parametrize("name", ["tau", "hard"])
def test_a_number_is_not_deleted(tau: Any, name: str) -> None:
    module = st.nn.GumbelSoftmax(tau)
    with pytest.raises(st.ArgumentError, match=f"{name} of GumbelSoftmax can't be deleted"):
        delattr(module, name)
    assert module.tau is tau
    module.note = "of the user"
    del module.note


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: st.nn.Solve(3), "solver must be a function"),
        (lambda: st.nn.Solve(torch.relu, event_dim=0), "event_dim must be an int of at least 1"),
        (lambda: st.nn.Categorical(dim="a"), "dim must be an int, got 'a'"),
        (lambda: st.nn.SampleSubset(2, dim=1.5), "dim must be an int, got 1.5"),
        (lambda: st.nn.Clamp(1, 0), "min must be at most max, got min=1 and max=0"),
        (lambda: st.nn.Clamp("a", 0), "min must be a finite number, got 'a'"),
        (lambda: st.nn.CategoricalLookup(0, 3), "classes must be an int of at least 1, got 0"),
        (lambda: st.nn.CategoricalLookup(3, -1), "features must be an int of at least 0, got -1"),
        (lambda: st.nn.CategoricalLookup(3.0, 1), "classes must be an int of at least 1, got 3.0"),
        (lambda: st.nn.HardConcreteGate(-1), "shape must be an int of at least 0, got -1"),
        (lambda: st.nn.HardConcreteGate((2, -1)), "shape must be an int of at least 0, got -1"),
        (lambda: Constant("a"), "value must be a finite number, got 'a'"),
        (lambda: st.nn.HardConcreteGate("a"), "shape must be an int of at least 0, got 'a'"),
    ],
)
def test_construction_refuses_what_every_forward_would(make: Any, message: str) -> None:
    with pytest.raises(st.ArgumentError, match=message):
        make()


def test_a_solver_that_is_a_module_is_one_of_its_children() -> None:
    module = st.nn.Solve(nn.Identity())
    assert [name for name, _ in module.named_children()] == ["solver"]
    module.solver = torch.relu
    assert (module.solver, [*module.children()]) == (torch.relu, [])


@dataclass(frozen=True)
class Mixed(st.surrogates.Derivative):
    """A weighted sum of another surrogate and 1."""

    other: st.surrogates.Derivative
    weights: tuple[Any, Any] = (0.5, 0.5)

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        return self.weights[0] * self.other.derivative(x) + self.weights[1]


def test_a_tensor_deep_in_a_rule_is_refused_which_would_stay_as_it_was() -> None:
    moving = torch.tensor(0.5)
    tanh = st.surrogates.Tanh(2.0)
    for name, deep in {"other": st.surrogates.Tanh(moving), "weights": (0.5, moving)}.items():
        given = Mixed(**{"other": tanh, name: deep})
        with pytest.raises(st.ArgumentError, match=f"{name} holds a tensor inside of"):
            st.nn.Sign(given)
        module = st.nn.Sign(Mixed(tanh))
        with pytest.raises(st.ArgumentError, match=f"{name} holds a tensor inside of"):
            module.surrogate = given
        with pytest.raises(st.ArgumentError, match=f"{name} holds a tensor inside of"):
            setattr(module, name, deep)
        assert module.rule == Mixed(tanh)
