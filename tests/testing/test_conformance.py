"""Every promise of every operator with every rule: one matrix over the registry."""

import dataclasses
import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import strategies

import straightthrough as st
from straightthrough import testing
from straightthrough.core import kernels
from straightthrough.core.gumbels import gumbel_noise
from straightthrough.core.noise import Noise
from straightthrough.core.registry import OPERATORS, RULES
from straightthrough.core.rules import Derivative, Relaxation, Rule
from straightthrough.core.signature import shaped
from straightthrough.estimators import CategoricalEstimator, GumbelST
from straightthrough.estimators.categorical import one_hot
from straightthrough.estimators.gumbel import conditional_gumbels
from straightthrough.testing import Case


def soft(name: str, **changes: object) -> Case:
    """The operator in its soft mode, where forward mode always works."""
    record = OPERATORS[name]
    arguments = {**record.arguments, "hard": False}
    record = dataclasses.replace(record, arguments=arguments, forward_mode=True, **changes)
    return Case(record, soft=True)


def soft_gumbel_gradient(rule, logits, y, grad, noise, **_):
    gumbels = gumbel_noise(logits, noise).double()
    relaxed = functools.partial(torch.softmax, dim=-1)
    return torch.func.vjp(relaxed, logits.double() + gumbels)[1](grad.double())


HARD = testing.cases()
SOFT = [
    soft("binary_concrete"),
    soft("hard_concrete"),
    soft("gumbel_softmax", gradient=soft_gumbel_gradient),
]
MATRIX = [(check, case) for case in HARD + SOFT for check in testing.applicable(case)]
FIRST_OF_FAMILY = {record.family: record for record in reversed(OPERATORS.values())}


def name(value: object) -> str:
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("check", "case"), MATRIX, ids=name)
def test_conformance(check, case):
    check(case)


def other_implementations() -> list[str]:
    """The reference, and every kernel library that was built for less than this machine has."""
    served = kernels.LEVELS.index(kernels.level) if kernels.level else len(kernels.LEVELS)
    lower = kernels.LEVELS[served + 1 :]
    return ["off", *(level for level in lower if (kernels.FOLDER / f"{level}.so").exists())]


SERVED = {
    testing.check_frequencies,
    testing.check_gradient,
    testing.check_hard_value,
    testing.check_layouts,
    testing.check_seed,
}
"""What depends on the implementation that serves eager calls."""


def check_draws() -> None:
    """Run the part of the matrix that kernels serve, for draws."""
    for check, case in MATRIX:
        if case.record.samples and check in SERVED:
            check(case)


@pytest.mark.parametrize("level", other_implementations())
def test_conformance_of_the_other_implementations(level):
    lines = (
        "from straightthrough.core import kernels",
        f"assert (kernels.level or 'off') == {level!r}, kernels.reason",
        "from testing.test_conformance import check_draws",
        "check_draws()",
    )
    command = [sys.executable, "-c", "; ".join(lines)]
    environment = {**os.environ, kernels.VARIABLE: level, "OMP_NUM_THREADS": "1"}
    here = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_operator_and_every_rule_is_in_the_matrix():
    operators = {case.record.name for _, case in MATRIX}
    rules = {type(case.rule) for _, case in MATRIX if case.rule is not None}
    assert operators == set(OPERATORS)
    assert rules == {record.type for record in RULES.values()}
    assert {check for check, _ in MATRIX} == set(testing.CHECKS)


@pytest.mark.parametrize("record", FIRST_OF_FAMILY.values(), ids=list(FIRST_OF_FAMILY))
def test_inductor_gives_the_value_and_the_gradient_of_eager(record):
    testing.check_compiled(Case(record), "inductor")


@strategies.composite
def inputs(draw, record, limit: float | None = None) -> list[torch.Tensor]:
    """Float64 tensors of any small shape: the first of any values up to a limit.

    The others are of whole numbers that all differ, so that a row of them is known by its values.
    """
    lead = draw(strategies.lists(strategies.integers(0, 4), max_size=2))
    named = sorted({name for one in record.inputs for name in one.named})
    sizes = {name: draw(strategies.integers(2, 6)) for name in named}
    shapes = [shaped(one.dims, lead, sizes) for one in record.inputs]
    floats = strategies.floats(width=32)
    if limit is not None:
        wild = strategies.sampled_from([float("nan"), float("inf"), float("-inf")])
        floats = strategies.floats(-limit, limit, width=32) | wild
    first = draw(tensors(floats, shapes[0]))
    others = [
        draw(tensors(strategies.integers(1 if one.positive else -99, 99), shape, unique=True))
        for one, shape in zip(record.inputs[1:], shapes[1:], strict=True)
    ]
    return [first, *others]


@strategies.composite
def tensors(draw, elements, shape: torch.Size, unique: bool = False) -> torch.Tensor:
    count = shape.numel()
    lists = strategies.lists(elements, min_size=count, max_size=count, unique=unique)
    return torch.tensor(draw(lists), dtype=torch.float64).reshape(shape)


each_operator = pytest.mark.parametrize("record", OPERATORS.values(), ids=list(OPERATORS))
examples = hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)


@each_operator
@examples
@hypothesis.given(data=strategies.data())
def test_values_of_any_input(record, data):
    given = data.draw(inputs(record))
    for dtype in testing.DTYPES:
        testing.assert_value(Case(record), *(x.to(dtype) for x in given))


@each_operator
@examples
@hypothesis.given(data=strategies.data())
def test_gradients_of_any_input(record, data):
    given = data.draw(inputs(record, limit=1000.0))
    for dtype in testing.DTYPES:
        testing.assert_gradient(Case(record), *(x.to(dtype) for x in given))


def test_gumbel_st_holds_its_gumbels_in_the_second_derivative():
    tau = 0.7
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 5, dtype=torch.float64)
    z = st.categorical(logits, GumbelST(tau), seed=3)
    gumbels = (
        conditional_gumbels(logits.detach(), z.argmax(-1), Noise(torch.tensor(3))) - logits.detach()
    )
    y = torch.softmax((logits + gumbels) / tau, -1)
    assert torch.equal(y.argmax(-1), z.argmax(-1))
    first = [torch.autograd.grad(value, logits, grad, create_graph=True)[0] for value in (z, y)]
    second = [torch.autograd.grad(value, (logits, grad), weight) for value in first]
    torch.testing.assert_close(first[0], first[1])
    torch.testing.assert_close(second[0], second[1])


@dataclass(frozen=True)
class Cosine(Derivative):
    """A third party's surrogate, without a primitive."""

    width: float = 2.0

    def derivative(self, x):
        return torch.where(x.abs() < self.width, torch.cos(x / self.width), 0)


@dataclass(frozen=True)
class SquaredSoftmax(Relaxation):
    """A third party's relaxation."""

    def soft(self, x):
        return torch.softmax(x, -1).square()


@dataclass(frozen=True)
class Darn(CategoricalEstimator):
    """A third party's estimator: `(D - p)(g_x - <p, g>)`."""

    def gradient(self, logits, index, grad, seed):
        p = torch.softmax(logits, -1)
        advantage = grad - (p * grad).sum(-1, keepdim=True)
        return (one_hot(index, p) - p) * advantage.gather(-1, index.unsqueeze(-1))


@dataclass(frozen=True)
class Blend(Derivative):
    """A third party's surrogate, made of others."""

    parts: tuple[Derivative, ...] = (st.surrogates.Tanh(), st.surrogates.Atan(alpha=3.0))
    weights: tuple[float, ...] = (0.25, 0.75)
    width: float | None = None

    def derivative(self, x):
        pairs = zip(self.weights, self.parts, strict=True)
        slope = sum(weight * part.derivative(x) for weight, part in pairs)
        return slope if self.width is None else torch.where(x.abs() < self.width, slope, 0)


@dataclass(frozen=True)
class Shapeless(Rule):
    """A rule of no known form."""


@pytest.mark.parametrize("rule", [Cosine(), SquaredSoftmax(), Darn(), Blend()], ids=name)
def test_third_party_rules_pass(rule):
    assert type(rule) not in {record.type for record in RULES.values()}
    testing.check_rule(rule)


def test_numbers_inside_a_field_count_as_they_are_at_the_call():
    slope = torch.tensor(2.0)
    x = torch.linspace(-2, 2, 5, requires_grad=True)
    y = st.sign(x, Blend((st.surrogates.Tanh(slope), Cosine()), (slope, 0), width=1.5))
    slope.fill_(7)
    found = torch.autograd.grad(y.sum(), x)[0]
    due = 4 * (1 - torch.tanh(2 * x) ** 2) * (x.abs() < 1.5)
    torch.testing.assert_close(found, due.detach())
    with pytest.raises(st.ArgumentError, match=r"weights must be a number, .* got list; write"):
        st.sign(x, Blend(weights=([1.0], 1.0)))


def test_a_rule_that_no_operator_takes_is_refused():
    with pytest.raises(st.ArgumentError, match="no operator takes Shapeless") as caught:
        testing.check_rule(Shapeless())
    forms = {fit.__name__ for record in OPERATORS.values() for fit in record.fits} - {"Identity"}
    assert all(form in str(caught.value) for form in forms)


def test_a_rule_that_may_change_is_refused():
    class Mutable(Derivative):
        def derivative(self, x):
            return x

    with pytest.raises(st.ArgumentError, match=r"^Mutable must be a frozen dataclass"):
        testing.check_rule(Mutable())


def test_an_operator_is_checked_with_its_rules():
    testing.check_operator(OPERATORS["topk"])
