"""`vjp` of every rule: what it refuses, and that kernels serve it wherever they can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core import kernels
from straightthrough.core.noise import Noise
from straightthrough.core.registry import RULES
from straightthrough.core.rules import Derivative, Relaxation, Rule
from straightthrough.estimators import (
    CategoricalEstimator,
    CountEstimator,
    Fini,
    ReinMax,
    SubsetEstimator,
)
from straightthrough.relaxations import Softmax

RULES_OF_TENSORS = [
    record.example for record in RULES.values() if issubclass(record.type, (Derivative, Relaxation))
]
ESTIMATORS = [
    record.example for record in RULES.values() if issubclass(record.type, CategoricalEstimator)
]
x = torch.randn(3, 5)


@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("rule", RULES_OF_TENSORS, ids=repr)
def test_wrong_arguments_are_refused(rule: Rule, recording: bool) -> None:
    """Under no_grad too, where kernels serve."""
    with torch.set_grad_enabled(recording):
        for dtype in (torch.uint8, torch.bool, torch.int64, torch.complex64):
            with pytest.raises(st.DtypeError, match=f"x must be .*{dtype}"):
                rule.vjp(x.to(dtype), x)
            with pytest.raises(st.DtypeError, match=f"grad must be .*{dtype}"):
                rule.vjp(x, x.to(dtype))
        with pytest.raises(st.ShapeError, match=r"\(3, 5\) and \(5,\)"):
            rule.vjp(x, x[0])
        with pytest.raises(st.DtypeError, match="x must be a tensor, got list"):
            rule.vjp([1.0], x)
        with pytest.raises(st.ArgumentError, match="cpu and meta"):
            rule.vjp(x, x.to("meta"))


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES_OF_TENSORS if isinstance(rule, Relaxation)], ids=repr
)
def test_a_relaxation_chooses_k_of_its_classes(rule: Relaxation) -> None:
    for product in (rule.vjp, rule.jvp):
        for k in (0, 6, True, 2.0):
            with pytest.raises(st.ArgumentError, match=r"k must be an int in \[1, 5\]"):
                product(x, x, k=k)
        with pytest.raises(st.ShapeError, match="must have a dimension of classes"):
            product(x[0, 0], x[0, 0])


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES_OF_TENSORS if isinstance(rule, Relaxation)]
)
def test_wrong_tangents_are_refused(rule: Relaxation) -> None:
    with pytest.raises(st.DtypeError, match="int64"):
        rule.jvp(x, x.long())
    with pytest.raises(st.ShapeError, match="one shape"):
        rule.jvp(x, x[:2])
    moved = rule.jvp(x, torch.ones_like(x))
    torch.testing.assert_close(moved, torch.func.jvp(rule.soft, (x,), (torch.ones_like(x),))[1])


def calls_of_kernels(function: object, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a kernel was found to serve in a call of `function`."""
    served: list[Tensor] = []
    has_kernel = kernels.has_kernel

    def counted(x: Tensor, grad: Tensor | None = None, name: str = "") -> bool:
        found = has_kernel(x, grad, name)
        served.extend([x] * found)
        return found

    monkeypatch.setattr(kernels, "has_kernel", counted)
    function()
    monkeypatch.undo()
    return len(served)


@pytest.mark.kernels
@pytest.mark.parametrize("rule", [*RULES_OF_TENSORS, *ESTIMATORS], ids=repr)
def test_kernels_serve_in_grad_mode_where_nothing_requires_a_gradient(
    rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = (torch.zeros(3, dtype=torch.int64),) if isinstance(rule, CategoricalEstimator) else ()

    def call() -> Tensor:
        return rule.vjp(x, *index, x)

    with torch.no_grad():
        wanted = calls_of_kernels(call, monkeypatch)
    assert torch.is_grad_enabled()
    assert calls_of_kernels(call, monkeypatch) == wanted
    leaf = x.clone().requires_grad_()
    assert calls_of_kernels(lambda: rule.vjp(leaf, *index, x), monkeypatch) == 0


@pytest.mark.parametrize("parent", [st.surrogates.Tanh, ReinMax, Softmax, Fini], ids=repr)
def test_a_rule_of_ones_own_writes_its_formula_and_not_the_checked_entry(parent: type) -> None:
    with pytest.raises(TypeError, match=r"Mine overrides vjp, .*; write the formula instead"):
        type("Mine", (parent,), {"vjp": lambda self, *_: None})


def test_a_gradient_of_ones_own_does_not_go_with_its_parents_closed_form() -> None:
    def triple(self: ReinMax, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return 3 * grad

    mine = type("Mine", (ReinMax,), {"gradient": triple})()
    x = torch.zeros(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(st.bernoulli(x, estimator=mine, seed=0).sum(), x)
    assert gradient.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("parent", [st.surrogates.Identity, st.surrogates.Clipped], ids=repr)
def test_a_formula_of_ones_own_is_told_what_its_parents_is_not(parent: type[Derivative]) -> None:
    triple = type("Triple", (parent,), {"derivative": lambda self, x: 3 * x})()
    x = torch.tensor([0.5, -2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(st.sign(x, surrogate=triple).sum(), x)
    assert gradient.tolist() == triple.vjp(x, torch.ones(2)).tolist() == [1.5, -6.0]


def test_a_relaxation_of_ones_own_is_not_served_by_its_parents_kernel() -> None:
    triple = type("Triple", (Softmax,), {"soft": lambda self, x: 3 * x})()
    scores, ones = torch.randn(2, 4, requires_grad=True), torch.ones(2, 4)
    y = st.topk(scores, 2, triple)
    (gradient,) = torch.autograd.grad(y, scores, ones)
    moved = torch.func.jvp(lambda s: st.topk(s, 2, triple), (scores.detach(),), (ones,))[1]
    for found in (gradient, moved):
        assert torch.equal(found, torch.full((2, 4), 6.0))
    assert torch.equal(triple.vjp(scores.detach(), ones), torch.full((2, 4), 3.0))


@pytest.mark.parametrize("rule", [st.surrogates.Tanh(), st.surrogates.Clipped()], ids=str)
def test_compiled_code_has_the_kernel_whole(rule: Derivative) -> None:
    x, grad = torch.linspace(-2, 2, 9), torch.arange(9.0)
    torch.compiler.reset()
    compiled = torch.compile(rule.vjp, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, grad), rule.vjp(x, grad))


@dataclass(frozen=True)
class Stacked(CategoricalEstimator):
    """A formula that returns what it should, four times."""

    def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Noise) -> Tensor:
        return grad.expand(4, *grad.shape)


@dataclass(frozen=True)
class Slope(Derivative):
    def derivative(self, x: Tensor) -> Tensor:
        return torch.ones(4, *x.shape)


@dataclass(frozen=True)
class Counted(CountEstimator):
    def gradient(
        self, mean: Tensor, dispersion: Tensor, size: float, count: Tensor, grad: Tensor
    ) -> Tensor:
        return grad.expand(4, *grad.shape)


@dataclass(frozen=True)
class Chosen(SubsetEstimator):
    def gradient(self, logits: Tensor, k: int, value: Tensor, grad: Tensor) -> Tensor:
        return grad.expand(4, *grad.shape)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: st.categorical(x, Stacked()),
        lambda x: st.bernoulli(x, Stacked()),
        lambda x: st.audit.compare(lambda z: z.sum((-2, -1)), x, [Stacked()]),
        lambda x: st.sign(x, surrogate=Slope()),
        lambda x: st.bernoulli(x, Slope()),
        lambda x: st.poisson(x, Counted()),
        lambda x: st.sample_subset(x, 2, Chosen()),
    ],
)
def test_a_formula_of_another_shape_is_no_gradient(draw: Any) -> None:
    """Torch sums over what is too much, so that gradients were four times as long."""
    given = torch.rand(3, 5, requires_grad=True)
    with pytest.raises(st.ShapeError, match=r"\(.*3, 5\) .*, got \(4, .*3, 5\)"):
        draw(given).sum().backward()
