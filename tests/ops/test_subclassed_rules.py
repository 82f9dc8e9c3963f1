"""A subclass of any rule that writes its formula anew is asked for that one, by every operator."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import straightthrough as st
from straightthrough.core.registry import OPERATORS
from straightthrough.core.rules import Derivative, Relaxation, Rule
from straightthrough.relaxations import Threshold
from straightthrough.testing import Case

CASES = [
    Case(record, rule.example)
    for record in OPERATORS.values()
    if record.rule is not None
    for rule in record.rules()
    if not (record.family == "quantize" and rule.type is st.surrogates.Identity)
    if not (record.family == "bernoulli" and rule.type.draws_noise)  # other noise, of two classes
]
FORMULAS = ((Derivative, "derivative"), (Threshold, "soft_topk"), (Relaxation, "soft"))


def tripled(rule: Rule) -> Rule:
    """Return the rule with three times its formula, of a class that inherits all else."""
    parent = type(rule)
    name = next((name for form, name in FORMULAS if isinstance(rule, form)), "gradient")
    formula = getattr(parent, name)

    def triple(self: Rule, *args: Any, **options: Any) -> Any:
        found = formula(self, *args, **options)
        if isinstance(found, tuple):
            return tuple(None if one is None else 3 * one for one in found)
        return 3 * found

    made = dataclasses.dataclass(frozen=True)(type("Tripled", (parent,), {name: triple}))
    return made(**{field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_formula_of_a_subclass_is_the_gradient(case: Case) -> None:
    inputs = case.input()
    grad = case.incoming(case.leaves(inputs))
    _, due = case.backward(inputs, grad)
    _, found = Case(case.record, tripled(case.rule)).backward(inputs, grad)
    torch.testing.assert_close(found[0], 3 * due[0], equal_nan=True)


@pytest.mark.parametrize("operator", [st.fake_quantize, st.stochastic_quantize])
def test_a_grid_takes_no_derivative_that_it_would_not_ask(operator: Any) -> None:
    with pytest.raises(st.ArgumentError, match=r"got Tripled\(\), which has a derivative of its"):
        operator(torch.ones(3), 0.5, grid=st.grids.Int(4), rule=tripled(st.surrogates.Identity()))


def test_a_relaxation_that_topk_would_not_ask_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Mine overrides soft, and inherits soft_topk"):
        type("Mine", (Threshold,), {"soft": lambda self, x: x})
