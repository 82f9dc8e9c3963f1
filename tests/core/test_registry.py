"""The public names, the shorthands of rules, and what importing the library pulls in."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core import registry
from straightthrough.core.registry import OPERATORS, RULES, resolve
from straightthrough.core.rules import Derivative, Relaxation
from straightthrough.estimators import (
    DARN,
    MVE,
    CategoricalEstimator,
    DecoupledST,
    Fini,
    GappedST,
    GumbelRao,
    GumbelST,
    MVEInteger,
    ReinMax,
    ReinMaxCV,
    ReinMaxRao,
    StraightThrough,
)
from straightthrough.relaxations import Softmax, Threshold

PUBLIC = [
    "ArgumentError",
    "DtypeError",
    "Seed",
    "ShapeError",
    "StraightThroughError",
    "argmax",
    "assignment",
    "audit",
    "bernoulli",
    "binary_concrete",
    "binomial",
    "bsq",
    "bsq_decode",
    "categorical",
    "categorical_integer",
    "categorical_lookup",
    "ceil",
    "clamp",
    "distributions",
    "estimators",
    "fake_quantize",
    "floor",
    "fsq",
    "fsq_decode",
    "geometric",
    "grids",
    "gumbel_softmax",
    "hard_concrete",
    "hard_concrete_mean",
    "heaviside",
    "l0_norm",
    "lfq",
    "lfq_decode",
    "lfq_entropy",
    "nearest",
    "negative_binomial",
    "nn",
    "permutation",
    "poisson",
    "rank",
    "relaxations",
    "reorder",
    "round",
    "sample_subset",
    "sample_topk",
    "scales",
    "sign",
    "solve",
    "stochastic_quantize",
    "stochastic_round",
    "straight_through",
    "strict",
    "subset_entropy",
    "subset_log_prob",
    "subset_marginals",
    "surrogates",
    "ternary",
    "through",
    "topk",
    "trunc",
    "vector_quantize",
    "wrap",
]

OPERATORS_OF_FAMILIES = {
    "pointwise": {"sign", "heaviside", "round", "floor", "ceil", "trunc", "clamp", "ternary"},
    "categorical": {
        *("categorical", "categorical_integer", "categorical_lookup"),
        *("argmax", "gumbel_softmax"),
    },
    "bernoulli": {"bernoulli", "binary_concrete", "hard_concrete"},
    "counts": {"poisson", "binomial", "geometric", "negative_binomial"},
    "quantize": {"fake_quantize", "stochastic_quantize", "stochastic_round"},
    "subset": {"topk", "sample_topk", "sample_subset"},
    "solver": {"solve"},
    "permutation": {"rank", "permutation", "reorder", "assignment"},
    "codebook": {"through", "vector_quantize", "fsq", "lfq", "bsq"},
}


def test_public_names() -> None:
    assert list(st.__all__) == PUBLIC
    assert all(hasattr(st, name) for name in PUBLIC)


def test_operators_of_the_families() -> None:
    for family, names in OPERATORS_OF_FAMILIES.items():
        assert {record.name for record in OPERATORS.values() if record.family == family} >= names
        assert all(OPERATORS[name].function is getattr(st, name) for name in names)
    for record in OPERATORS.values():
        assert record.summary.endswith(".")


def test_every_rule_of_the_contract_has_its_shorthand_and_default() -> None:
    wanted = {
        "straight_through": StraightThrough(tau=1.0),
        "gumbel": GumbelST(tau=1.0),
        "gumbel_rao": GumbelRao(tau=1.0, samples=10),
        "gapped": GappedST(tau=1.0, gap=1.0),
        "darn": DARN(),
        "mve": MVE(tau=1e6),
        "mve_integer": MVEInteger(tau=1e6),
        "decoupled": DecoupledST(tau_forward=1.0, tau_backward=1.0),
        "reinmax": ReinMax(tau=1.0),
        "fini": Fini(order=2),
        "reinmax_rao": ReinMaxRao(tau=1.0, samples=100),
        "reinmax_cv": ReinMaxCV(tau=0.7, eta=1.5, samples=32),
        "softmax": Softmax(tau=1.0),
        "logistic": Threshold("logistic", tau=1.0),
        "laplace": Threshold("laplace", tau=1.0),
        "midpoint": Threshold("midpoint", tau=1.0),
        "identity": st.surrogates.Identity(),
        "clipped": st.surrogates.Clipped(width=1),
        "tanh": st.surrogates.Tanh(slope=1),
        "sigmoid": st.surrogates.Sigmoid(slope=4),
        "atan": st.surrogates.Atan(alpha=2),
        "fast_sigmoid": st.surrogates.FastSigmoid(slope=25),
        "super_spike": st.surrogates.SuperSpike(alpha=1),
        "soft_sign": st.surrogates.SoftSign(alpha=2),
        "triangle": st.surrogates.Triangle(alpha=1),
        "erf": st.surrogates.Erf(alpha=2),
        "rectangle": st.surrogates.Rectangle(alpha=1),
        "exponential": st.surrogates.Exponential(alpha=1),
        "leaky_rectangle": st.surrogates.LeakyRectangle(width=1, leak=0.01),
        "multi_gaussian": st.surrogates.MultiGaussian(gamma=0.5, sigma=0.5, height=0.15),
        "square_wave": st.surrogates.SquareWave(terms=2, period=8),
        "approx_sign": st.surrogates.ApproxSign(),
        "swish_sign": st.surrogates.SwishSign(beta=5),
    }
    for name, rule in wanted.items():
        assert resolve("rule", name, Derivative, CategoricalEstimator, Fini, Relaxation) == rule
    assert {*wanted, "error_decay"} <= set(RULES)


def test_a_rule_is_returned_as_it_is() -> None:
    rule = ReinMax(1.3)
    assert resolve("estimator", rule, CategoricalEstimator) is rule


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("reinmx", "did you mean 'reinmax'? known"),
        ("zzz", "here; known"),
        ("tanh", "here; known"),  # a rule, but no estimator
        (st.surrogates.Tanh(), "here; known"),
        (ReinMax, "here; known"),
        (None, "here; known"),
        (["reinmax"], "here; known"),
    ],
    ids=repr,
)
def test_unknown_rules(given: object, hint: str) -> None:
    with pytest.raises(st.ArgumentError) as error:
        resolve("estimator", given, CategoricalEstimator)
    message = str(error.value)
    assert message.startswith(f"estimator={given!r} is unknown here; ")
    assert hint in message
    known, _, itself = message.partition("known: ")[2].partition(", or, in Python, ")
    first = next(each for each in RULES.values() if issubclass(each.type, CategoricalEstimator))
    assert itself == f"the rule itself, such as {first.example!r}"
    assert {"straight_through", "gumbel", "reinmax"} <= set(known.split(", "))
    assert "softmax" not in known.split(", ")


def test_a_rule_without_a_default_shows_how_to_make_it() -> None:
    with pytest.raises(st.ArgumentError, match=r"for instance ErrorDecay\(t=1\.0\)"):
        resolve("surrogate", "error_decay", Derivative)
    assert RULES["error_decay"].example == st.surrogates.ErrorDecay(1.0)


def test_a_name_is_that_of_the_rule_that_was_registered_last() -> None:
    def cell() -> type[ReinMax]:  # of a notebook, which is run again
        @dataclasses.dataclass(frozen=True)
        class Late(ReinMax):
            pass

        return Late

    try:
        for form in (cell(), cell()):
            registry.rule("late")(form)
            assert type(resolve("estimator", "late", CategoricalEstimator)) is form
    finally:
        del RULES["late"]


def test_compiled_code_takes_the_rule_that_was_registered_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(registry, "RULES", dict(RULES))
    late = [
        dataclasses.make_dataclass("Late", [], bases=(base,), frozen=True)
        for base in (st.surrogates.Tanh, st.surrogates.Identity)
    ]
    registry.rule("late")(late[0])
    x = torch.tensor([0.5], requires_grad=True)
    sign = torch.compile(lambda x: st.sign(x, "late"), backend="aot_eager", fullgraph=True)

    def slope() -> Tensor:
        return torch.autograd.grad(sign(x).sum(), x)[0]

    torch.testing.assert_close(slope(), 1 - x.tanh().square())
    registry.rule("late")(late[1])
    assert slope() == 1
    registry._ready.cache_clear()


@pytest.mark.parametrize("shorthand", ["", "reinmax"])
def test_a_rule_of_ones_own_does_not_take_a_name_of_the_librarys(
    shorthand: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "RULES", dict(RULES))

    @dataclasses.dataclass(frozen=True)
    class Mine(CategoricalEstimator):
        def gradient(self, logits: Tensor, index: Tensor, grad: Tensor, noise: Any) -> Tensor:
            return grad

    message = "'reinmax' is ReinMax of the library, .*; register Mine under another name"
    with pytest.raises(st.ArgumentError, match=message):
        registry.rule("mine" if shorthand else "reinmax", shorthand=shorthand)(Mine)
    assert resolve("estimator", "reinmax", CategoricalEstimator) == ReinMax()
    with pytest.raises(st.ArgumentError, match="register ReinMax under another name"):
        registry.rule("reinmax", tau=2.0)(ReinMax)  # nor do other numbers of the library's
    registry.rule("mine", shorthand="tanh")(Mine)  # which is one of another form
    assert resolve("estimator", "tanh", CategoricalEstimator) == Mine()
    registry._ready.cache_clear()


def test_a_module_of_the_library_that_is_loaded_again_registers_its_rules_again() -> None:
    again = dataclasses.make_dataclass("ReinMax", [], bases=(ReinMax,), frozen=True)
    again.__module__, again.__qualname__ = ReinMax.__module__, ReinMax.__qualname__
    record = RULES["reinmax"]
    try:
        registry.rule("reinmax")(again)
        assert RULES["reinmax"].type is again
    finally:
        RULES["reinmax"] = record
        registry._ready.cache_clear()


@pytest.mark.parametrize("own", [True, False], ids=["__post_init__", "none"])
@pytest.mark.parametrize(
    "given", [[1.0, 2.0], (1.0, [2.0]), {1.0: 2.0}, range(2), torch.ones(2), np.ones(2)], ids=repr
)
def test_a_field_that_holds_a_list_is_refused_by_its_name(given: object, own: bool) -> None:
    @dataclasses.dataclass(frozen=True)
    class Late(Derivative):  # which checks nothing as it is made
        levels: Any

        def derivative(self, x: Tensor) -> Tensor:
            return x * self.levels[0]

        def __post_init__(self) -> None:
            pass

    @dataclasses.dataclass(frozen=True)
    class Soon(Derivative):
        levels: Any

        def derivative(self, x: Tensor) -> Tensor:
            return x * self.levels[0]

    message = "levels must be a number, a string, None, a rule, or a tuple of these, got .* a tuple"
    if not own:
        with pytest.raises(st.ArgumentError, match=message):
            Soon(given)
        return
    rule, x = Late(given), torch.ones(2)
    with pytest.raises(st.ArgumentError, match=message):
        st.sign(x, rule)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="levels must be a number, a string"):
        torch.compile(lambda x: st.sign(x, rule), backend="eager", fullgraph=True)(x)
    with pytest.raises(st.ArgumentError, match=message):
        torch.compile(lambda x: st.sign(x, rule), backend="eager")(x)


def test_a_rule_that_is_registered_is_a_frozen_dataclass() -> None:
    @dataclasses.dataclass
    class Loose(Derivative):
        def derivative(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(st.ArgumentError, match="Loose must be a frozen dataclass"):
        registry.rule("loose")(Loose)
    assert "loose" not in RULES


def test_rules_that_fit_an_operator() -> None:
    names = {record.name for record in OPERATORS["categorical"].rules()}
    assert {"straight_through", "gumbel", "reinmax"} <= names
    assert "softmax" not in names
    selections = {record.name for record in OPERATORS["topk"].rules()}
    assert {"logistic", "laplace", "midpoint", "softmax"} <= selections
    assert "reinmax" not in selections
    assert "tanh" in {record.name for record in OPERATORS["bernoulli"].rules()}
    assert all(record.summary.endswith(".") for record in RULES.values())


@pytest.mark.parametrize(
    "module", ["straightthrough", "straightthrough.nn", "straightthrough.audit"]
)
def test_import_needs_torch_and_numpy_alone(module: str) -> None:
    extras = {"matplotlib", "rich", "typer", "sklearn", "scipy", "pytest", "hypothesis"}
    code = f"import sys; import torch; before = set(sys.modules); import {module}; "
    code += "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "straightthrough" in loaded
    assert not loaded & extras


def test_the_import_leaves_torchs_compiler_alone() -> None:
    """It would take most of a second, in every program."""
    code = "import sys, straightthrough as st; print(*sorted(sys.modules)); st.audit.compare"
    code += "; print(*sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, loaded = (set(line.split()) for line in run.stdout.splitlines())
    assert "straightthrough.nn.codebook" in first
    assert "straightthrough.audit" not in first  # nor is the time taken of what is not asked for
    assert "straightthrough.audit.monitor" in loaded
    assert not loaded & {"torch._dynamo", "torch._inductor", "sympy", "torch.onnx._internal"}
