"""Operations as text: what a graph holds of them, and what can be read back."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

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


def test_another_source_is_another_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch keeps compiled graphs by their text, and not by the Python behind it."""
    source = (
        "from dataclasses import dataclass\n"
        "from straightthrough.surrogates import Tanh\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Tanh):\n"
        "    def derivative(self, x):\n"
        "        return 0 * x + {}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    texts = []
    for slope in (2.0, 3.0):
        (tmp_path / "theirs.py").write_text(source.format(slope), encoding="utf-8")
        sys.modules.pop("theirs", None)
        importlib.invalidate_caches()
        texts.append(importlib.import_module("theirs").Mine.fingerprint)
    assert texts[0] != texts[1]
    assert Tanh.fingerprint == st.estimators.ReinMax.fingerprint != portable._sources("theirs")


def test_every_operator_can_be_written() -> None:
    """Its fields are portable: else it would fail under the first transform."""
    for record in OPERATORS.values():
        drawn = {"seed": 1} if record.samples else {}
        inputs = Case(record).input(1)
        mapped = torch.func.vmap(lambda *x, r=record, d=drawn: r.call(*x, **r.arguments, **d))
        y = mapped(*(x.expand(1, *x.shape) for x in inputs))
        value = y[0] if isinstance(y, tuple) else y
        assert value.shape[0] == 1, record.name
