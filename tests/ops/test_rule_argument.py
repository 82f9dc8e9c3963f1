"""Where an operator and its module take a rule, and numbers for its fields: everywhere alike."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import straightthrough as st
from straightthrough.core.registry import OPERATORS, OperatorRecord, RuleRecord

WITH_RULE = [record for record in OPERATORS.values() if record.rule]
OPERATOR = pytest.mark.parametrize("record", WITH_RULE, ids=lambda record: record.name)
EVERY_RULE = pytest.mark.parametrize(
    ("record", "rule"),
    [(record, rule) for record in WITH_RULE for rule in record.rules()],
    ids=lambda each: each.name,
)
X = torch.linspace(-2, 1.5, 12).reshape(3, 4)
TABLE = torch.linspace(-1, 1, 8).reshape(4, 2)


MODULES = {name.lower(): getattr(st.nn, name) for name in st.nn.__all__}
"""What `st.nn` has, by the name of an operator without its underscores."""

BY_NAME = {"fake_quantize", "stochastic_quantize"}
"""Those whose rule has a name and no place, as the grid before it has."""

HAVE_MODULES = pytest.mark.parametrize(
    "record",
    [record for record in WITH_RULE if record.name.replace("_", "") in MODULES],
    ids=lambda record: record.name,
)
INPUTS = {
    "fake_quantize": (X, torch.tensor(0.5)),
    "stochastic_quantize": (X, torch.tensor(0.5)),
    "through": (X, X.cos()),
    "vector_quantize": (X, TABLE.T),
}


def module_of(record: OperatorRecord) -> type[torch.nn.Module]:
    """The class in `st.nn` of the operator's name."""
    module: type[torch.nn.Module] = MODULES[record.name.replace("_", "")]
    return module


def before_the_rule(record: OperatorRecord) -> tuple[list[Any], dict[str, Any]]:
    """What is passed before the rule, in its place, and what is passed by name after it."""
    inputs = INPUTS.get(record.name, (X, TABLE))
    given = dict(zip([one.name for one in record.inputs], inputs, strict=False))
    given |= record.arguments | ({"seed": 3} if record.samples else {})
    parameters = [*inspect.signature(record.function).parameters.values()]
    last = [parameter.name for parameter in parameters].index(str(record.rule))
    places = [one for one in parameters[:last] if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    return [given.pop(one.name, 0 if one.default == 0 else None) for one in places], given


def outcome(call: Callable[..., Tensor], x: Tensor = X) -> tuple[Tensor, Tensor | None]:
    leaf = x.requires_grad_()
    y = call()
    y = y[0] if isinstance(y, tuple) else y
    gradient = torch.autograd.grad(y.sin().sum(), leaf, allow_unused=True)[0]
    return y.detach(), gradient


def assert_alike(*calls: Callable[[], Tensor]) -> None:
    first, *others = map(outcome, calls)
    for other in others:
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@OPERATOR
def test_the_rule_comes_after_what_the_hard_operation_takes(record: OperatorRecord) -> None:
    """Last of those with a place; what comes after it has a name, and the fields are the rest."""
    parameters = inspect.signature(record.function).parameters
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    names = [*kinds]
    place = names.index(str(record.rule))
    if record.name in BY_NAME:
        assert kinds[names[place]] is inspect.Parameter.KEYWORD_ONLY
        place = names.index("grid") - 1
    assert {kinds[name] for name in names[: place + 1]} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert {kinds[name] for name in names[place + 1 : -1]} <= {inspect.Parameter.KEYWORD_ONLY}
    assert kinds["fields"] is inspect.Parameter.VAR_KEYWORD
    tuning = {"dim", "mask", "seed", "generator", "tau"}
    assert not tuning & {*names[:place]}


@HAVE_MODULES
def test_modules_have_it_in_the_same_place(record: OperatorRecord) -> None:
    parameters = [*inspect.signature(module_of(record)).parameters.values()]
    place = [parameter.name for parameter in parameters].index(str(record.rule))
    after = {parameter.kind for parameter in parameters[place + 1 : -1]}
    assert parameters[place].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert after <= {inspect.Parameter.KEYWORD_ONLY}
    assert parameters[-1].kind is inspect.Parameter.VAR_KEYWORD


@EVERY_RULE
def test_in_its_place_and_by_name(record: OperatorRecord, rule: RuleRecord) -> None:
    places, named = before_the_rule(record)
    if record.name in BY_NAME:
        with pytest.raises(TypeError, match="positional"):
            record.function(*places, 0, rule.example, **named)
        return
    assert_alike(
        lambda: record.function(*places, rule.example, **named),
        lambda: record.function(*places, **{str(record.rule): rule.example}, **named),
    )


def other_value(value: Any) -> Any:
    if isinstance(value, str):
        return {"code": "value", "value": "code"}.get(value, value)
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else 1.5 * value


@EVERY_RULE
def test_fields_beside_a_rule_and_its_shorthand(record: OperatorRecord, rule: RuleRecord) -> None:
    """All of them together are the rule that has them; of functions as of modules."""
    places, named = before_the_rule(record)
    fields = {
        field.name: other_value(getattr(rule.example, field.name))
        for field in dataclasses.fields(rule.type)
    }
    whole, keyword = rule.type(**fields), str(record.rule)
    assert_alike(
        lambda: record.function(*places, **{keyword: whole}, **named),
        lambda: record.function(*places, **{keyword: rule.shorthand}, **named, **fields),
        lambda: record.function(*places, **{keyword: rule.example}, **named, **fields),
    )
    if record.name.replace("_", "") not in MODULES:
        return
    cls = module_of(record)
    numbers = {
        name: value
        for name, value in record.arguments.items()
        if name in inspect.signature(cls).parameters
    }
    sizes = {"classes": 4, "features": 2} if record.name == "categorical_lookup" else {}
    module: Any = cls(**numbers, **sizes, **{keyword: rule.shorthand}, **fields)
    assert module.rule == whole


@OPERATOR
def test_a_name_that_nothing_has(record: OperatorRecord) -> None:
    places, named = before_the_rule(record)
    rule = type(record.default).__name__
    with pytest.raises(st.ArgumentError, match=f"no argument and no field of {rule} is named slop"):
        record.function(*places, **named, slop=2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.heaviside(X, "atan"), "threshold must be a number, got 'atan'; .*surrogate="),
        (lambda: st.ternary(X, "tanh"), "threshold must be a number, got 'tanh'; .*surrogate="),
        (lambda: st.clamp(X, st.surrogates.Tanh(), 1), r"min must be a number, got Tanh\(.*gate="),
        (lambda: st.topk(X, "softmax"), "k must be a number, got 'softmax'; .*relaxation='softmax"),
        (lambda: st.bernoulli(X, X), r"estimator must be .*a tensor; .* as in probs="),
        (lambda: st.poisson(X, X), r"estimator must be .*a tensor; .*their names"),
        (lambda: st.sign(X, "tanh", width=2.0), "no field of Tanh is named width; it has slope"),
        (lambda: st.sign(X, "identity", width=2.0), "Identity is named width; it has none"),
        (lambda: st.bernoulli(X, "gumbel", draws_noise=False), "is named draws_noise; it has tau$"),
        (lambda: st.sign(X, "tanh", slope=-1.0), "slope must be above 0, got -1"),
    ],
)
def test_errors_name_the_mend(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(st.ArgumentError, match=message):
        call()


def test_fields_in_compiled_code() -> None:
    """A field that moves makes nothing compile anew."""
    compiled = torch.compile(
        lambda x, slope: st.sign(x, "tanh", slope=slope), fullgraph=True, backend="aot_eager"
    )
    for slope in map(torch.tensor, (1.0, 2.0, 3.0)):
        number = slope.item()
        assert_alike(partial(compiled, X, slope), partial(st.sign, X, "tanh", slope=number))


class Bare(st.surrogates.Derivative):
    """A rule without fields, which modules and compiled code could not read."""

    def derivative(self, x: Tensor) -> Tensor:
        return torch.exp(-x.square())


@dataclasses.dataclass
class Loose(Bare):
    """One whose field may change between forward and backward."""

    width: float = 1.0


@dataclasses.dataclass(frozen=True)
class Bell(Bare):
    """One as it should be."""

    width: float = 2.0

    def derivative(self, x: Tensor) -> Tensor:
        return torch.exp(-(x / self.width).square())


@pytest.mark.parametrize("rule", [Bare(), Loose()], ids=lambda rule: type(rule).__name__)
def test_a_rule_is_a_frozen_dataclass(rule: st.surrogates.Derivative) -> None:
    for call in (partial(st.sign, X, rule), partial(st.nn.Sign, rule)):
        with pytest.raises(st.ArgumentError, match=f"{type(rule).__name__} must be a frozen"):
            call()


def test_a_rule_of_ones_own_is_taken_everywhere() -> None:
    to_value = torch.where(X < 0, -1.0, 1.0).cos()
    for operator in (partial(st.sign, surrogate=Bell()), st.nn.Sign(Bell())):
        _, gradient = outcome(partial(operator, X))
        torch.testing.assert_close(gradient, to_value * Bell().derivative(X.detach()))


def test_compiled_code_says_what_a_misspelt_name_may_have_meant() -> None:
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"did you mean .{,3}tanh"):
        torch.compile(lambda x: st.sign(x, "tanhh"), backend="eager", fullgraph=True)(X)
