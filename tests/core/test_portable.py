"""Operations as text: what a graph holds of them, and what can be read back."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch._inductor.utils import fresh_cache

import straightthrough as st
from straightthrough.core import portable
from straightthrough.core.portable import read, write
from straightthrough.core.registry import OPERATORS, RULES
from straightthrough.ops.pointwise.operation import Pointwise
from straightthrough.surrogates import Tanh
from straightthrough.testing import Case


def there_and_back(x: object) -> object:
    numbers: list[torch.Tensor] = []
    integers: list[int] = []
    return read(write(x, numbers, integers, True), numbers, integers)


@pytest.mark.parametrize("rule", [record.example for record in RULES.values()], ids=repr)
def test_every_rule_is_read_as_it_was_written(rule: object) -> None:
    assert there_and_back(rule) == rule


def test_fields_of_every_kind() -> None:
    @dataclass(frozen=True)
    class Everything(Tanh):
        text: str = 'a "quoted" 1e999 (b)'
        some: tuple[int | None, ...] = (1, None, -(2**62))
        none: None = None
        truth: bool = True
        infinite: float = -float("inf")

    assert there_and_back(Everything(0.1)) == Everything(0.1)


def test_a_tensor_travels_as_a_number() -> None:
    numbers: list[torch.Tensor] = []
    tau = torch.tensor(0.5)
    text = write(Tanh(tau), numbers, [], True)
    assert numbers == [tau]
    assert read(text, [torch.tensor(0.25)], []).slope == 0.25


def test_classes_of_one_name_are_told_apart() -> None:
    def make(number: float) -> type[Tanh]:
        @dataclass(frozen=True)
        class Local(Tanh):
            def derivative(self, x: torch.Tensor) -> torch.Tensor:
                return torch.full_like(x, number)

        return Local

    one, other = make(1.0), make(2.0)
    assert one.label != other.label
    assert type(there_and_back(one())) is one
    assert type(there_and_back(other())) is other
    x = torch.zeros(1)
    for cls, slope in ((one, 1.0), (other, 2.0)):
        gradient = torch.func.grad(lambda x, rule=cls(): st.sign(x, surrogate=rule).sum())
        assert gradient(x).item() == slope


def test_an_operation_says_what_it_is() -> None:
    numbers: list[torch.Tensor] = []
    text = write(Pointwise("sign", (), Tanh(0.5)), numbers, [], True)
    assert "ops.pointwise.operation.Pointwise(" in text
    assert "surrogates.sigmoidal.Tanh(" in text
    assert "hard='sign'" in text


CELL = """
from dataclasses import dataclass
from straightthrough.surrogates import Derivative

@dataclass(frozen=True)
class Mine(Derivative):
    def derivative(self, x):
        return slope(x)
"""


def test_a_rule_defined_again_is_another_text() -> None:
    """As torch keeps compiled graphs by their text, and not by the Python behind it."""
    texts = set()
    for _ in range(2):
        cell = {"__name__": "theirs"}
        exec(CELL, cell)
        texts.add(cell["Mine"].fingerprint)  # type: ignore[attr-defined]  # a class
    assert len(texts) == 2
    assert Tanh.fingerprint == st.estimators.ReinMax.fingerprint not in texts


def test_what_a_rule_calls_is_not_that_of_a_graph_on_disk() -> None:
    """Of another process the label is the same, and the function that the rule calls another."""
    x = torch.zeros(3, requires_grad=True)
    with fresh_cache():
        for slope in (2.0, 3.0):
            torch._dynamo.reset()
            portable._CLASSES.pop("theirs.Mine", None)
            cell = {"__name__": "theirs", "slope": lambda x, s=slope: s + 0 * x}
            exec(CELL, cell)
            sign = torch.compile(lambda x, rule=cell["Mine"](): st.sign(x, surrogate=rule))
            (gradient,) = torch.autograd.grad(sign(x).sum(), x)
            assert gradient.tolist() == [slope] * 3


def test_every_operator_can_be_written() -> None:
    """Its fields are portable: else it would fail under the first transform."""
    for record in OPERATORS.values():
        drawn = {"seed": 1} if record.samples else {}
        inputs = Case(record).input(1)
        mapped = torch.func.vmap(lambda *x, r=record, d=drawn: r.call(*x, **r.arguments, **d))
        y = mapped(*(x.expand(1, *x.shape) for x in inputs))
        value = y[0] if isinstance(y, tuple) else y
        assert value.shape[0] == 1, record.name
