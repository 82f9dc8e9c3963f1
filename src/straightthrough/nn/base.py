"""What every module with a backward rule shares: numbers that can be read, set and scheduled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling, is_exporting

from ..core.engine import apply
from ..core.errors import ArgumentError, StraightThroughError, check_floating, check_range
from ..core.internals import transforms_active
from ..core.registry import RULES, resolve
from ..core.rules import Rule
from ..core.straight_through import straight_through
from ..ops.quantize.operation import Detach
from .checked import Checks
from .kept import KeptDtypes
from .schedules import Schedule

KEYWORDS = ("surrogate", "estimator", "relaxation")
"""What operators call their rules."""
Number = float | Tensor | Schedule
R = TypeVar("R", bound=Rule)


class OperatorModule(nn.Module):
    """A module that `torch.jit` can't script, and says so."""

    def __prepare_scriptable__(self) -> NoReturn:
        raise StraightThroughError(
            f"{type(self).__name__} can't be scripted by torch.jit; use torch.compile to make it "
            f"faster and torch.export to save it"
        )


class RuleModule(KeptDtypes, OperatorModule, Generic[R]):
    """A module with a backward rule, whose numbers are attributes: read, set, scheduled.

    Fields given by name replace the rule's own: `Categorical("reinmax", tau=1.1)` has the rule
    `ReinMax(tau=1.1)`, and `Categorical("reinmax", tau=Linear(2.0, 1.0, steps=100))` the one
    whose `tau` is the schedule's value at each forward. `module.tau` is what was given, and
    assigning to it is checked as the construction is, and counts from the next forward. A schedule
    is a submodule under the field's name, a 0-d tensor a buffer of its own dtype whatever
    `.to(dtype)` says; deeper in a field, in a tuple or another rule, a tensor is refused. What is
    assigned takes the place of what was there: writing `fill_` into a tensor keeps it.

    A field of another rule that would fit raises where the present rule has none of that name,
    unless the class has an attribute of that name.

    Args:
        keyword: what the operator calls its rule, "surrogate", "estimator" or "relaxation".
        given: a rule or its shorthand.
        fits: the forms of a rule that the operator takes.
        fields: numbers and schedules for fields of the rule.

    Raises:
        ArgumentError: for an unknown rule or field, a value (of a schedule: its start or its end)
            that the rule refuses, or a tensor that is deep in a field.
    """

    _rule: R
    _keyword: str
    _fits: tuple[type[Rule], ...]
    _moving: tuple[str, ...]  # those of the rule's fields that are not constant
    _scheduled: tuple[str, ...]
    numbers: ClassVar[Checks] = {}
    """Its own numbers and flags, beside the rule's fields: the name of each, and what checks it."""
    checks: ClassVar[Checks] = {}
    """Likewise what is no number, and kept as it is given."""

    def __init__(
        self, keyword: str, given: R | str, fits: tuple[type[Rule], ...], fields: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self._keyword, self._fits = keyword, fits
        self._give(given, fields)

    @property
    def rule(self) -> R:
        """The rule at the schedules' present values."""
        if not self._moving:
            return self._rule
        values = {name: self.number(name) for name in self._moving}
        return dataclasses.replace(self._rule, **values)  # type: ignore[type-var]  # all are dataclasses

    def number(self, name: str) -> Any:
        """Return the number of that name as it is now."""
        value = getattr(self, name)
        return value.current if name in self._scheduled else value

    def observe(self, logits: Tensor, dim: int, mask: Tensor | None) -> None:
        """Show the schedules what a forward in training chooses from, once."""
        for schedule in self._schedules():
            schedule.observe(logits, dim, mask)

    def _schedules(self) -> list[Schedule]:
        """Return its schedules, once that which several of its numbers share."""
        found: list[Schedule] = []
        for name in self._scheduled:
            schedule = getattr(self, name)
            if not any(schedule is other for other in found):
                found.append(schedule)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        rule = self.__dict__.get("_rule")
        if rule is None:
            super().__setattr__(name, value)
        elif name in self.numbers:
            for given in ends(value):
                checked = self.numbers[name](name, given)
            self._place({name: value if isinstance(value, Schedule | Tensor) else checked})
        elif name in self.checks:
            self.checks[name](name, value)
            self._drop(name)
            super().__setattr__(name, value)
        elif name in _names(rule):
            self._give(self._rule, {**self._values(), name: value})
        elif name in self.__dict__ or hasattr(type(self), name) or not self._misleads(name):
            super().__setattr__(name, value)
        else:
            renamed = name in KEYWORDS and hasattr(type(self), self._keyword)
            instead = f"; assign its {self._keyword}" if renamed else f": {_described(rule)}"
            raise ArgumentError(f"{type(self).__name__} has no {name}{instead}")

    def __delattr__(self, name: str) -> None:
        if name in _names(self.__dict__.get("_rule")) or name in self.numbers:
            raise ArgumentError(
                f"{name} of {type(self).__name__} can't be deleted, as every forward takes it; "
                f"assign another"
            )
        super().__delattr__(name)

    def _give(self, given: R | str, fields: Mapping[str, Any]) -> None:
        """Take a rule, and numbers for its fields in the place of its own."""
        if isinstance(given, Rule):
            tensors = {name: v for name, v in vars(given).items() if _moves(v)}
            fields = {**tensors, **fields}
        for name, value in fields.items():
            _check_shallow(name, value)
        start = {name: ends(value)[0] for name, value in fields.items()}
        end = {name: ends(value)[-1] for name, value in fields.items()}
        rule = resolve(self._keyword, given, *self._fits, fields=start)
        dataclasses.replace(rule, **end)
        for name in _names(self.__dict__.get("_rule")):
            self._drop(name)
        self.__dict__["_rule"] = rule
        moving = {name: v for name, v in fields.items() if isinstance(v, Schedule | Tensor)}
        self._place({name: moving.get(name, getattr(rule, name)) for name in _names(rule)})

    def _place(self, values: Mapping[str, Any]) -> None:
        """Keep schedules as submodules, tensors as buffers, and other numbers as they are."""
        for name, value in values.items():
            self._drop(name)
            if isinstance(value, Schedule):
                self.register_module(name, value)
            elif isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                self.__dict__[name] = value
        fields = _names(self._rule)
        names = [name for name in (*fields, *self.numbers) if name not in self.__dict__]
        self.__dict__["_moving"] = tuple(name for name in names if name in fields)
        self.__dict__["_scheduled"] = tuple(name for name in names if name in self._modules)

    def _drop(self, name: str) -> None:
        for kept in (self.__dict__, self._buffers, self._modules):
            kept.pop(name, None)

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _names(self._rule)}

    def _misleads(self, name: str) -> bool:
        """Whether setting `name` would be taken for setting a field of the rule, or the rule."""
        fitting = (record.type for record in RULES.values() if issubclass(record.type, self._fits))
        return name in KEYWORDS or any(name in _names(rule) for rule in fitting)

    def _kept(self) -> Iterable[str]:
        return (*_names(self._rule), *self.numbers)

    def extra_repr(self) -> str:
        return f"{self._keyword}={self.rule}"


class EstimatorModule(RuleModule[R]):
    """A module whose rule is given, and can be read and assigned, as `estimator`."""

    def __init__(
        self, given: R | str, fits: tuple[type[Rule], ...], fields: Mapping[str, Any]
    ) -> None:
        super().__init__("estimator", given, fits, fields)

    @property
    def estimator(self) -> R:
        """The rule as it is now; a rule or a shorthand may be assigned, with all its numbers."""
        return self.rule

    @estimator.setter
    def estimator(self, given: R | str) -> None:
        self._give(given, {})


def detached(x: Tensor) -> Tensor:
    """Return `x` without a gradient, in a graph that is exported and decomposed too."""
    if not is_exporting():
        return x.detach()
    held: Tensor = apply(Detach(), x)
    return held


def waiting(x: Tensor, *parameters: Tensor | None) -> Tensor:
    """Return the input, of which parameters have gradients of 0, as replicas count on some."""
    learned = [p.sum() for p in parameters if p is not None]
    return straight_through(x, x + 0 * torch.stack(learned).sum().to(x.dtype)) if learned else x


def check_parameter(
    name: str,
    given: Tensor | None,
    other: str,
    free: Tensor | None,
    most: float = math.inf,
    without: float | None = None,
) -> None:
    """Raise if an element of `given` lies outside [0, most], where that can be seen at once.

    In eager code on the CPU it can. Elsewhere the value is NaN there, and `st.strict()` raises. The
    `other` parameter, any number of which is allowed, excludes it. The end `without` is outside.
    """
    if free is not None or given is None or type(given) not in (Tensor, nn.Parameter):
        return
    if not is_compiling() and not transforms_active():
        check_floating(name, given)
        if given.is_cpu:
            check_range(name, given, most, f", or pass {other}=", without)


def ends(value: Any) -> tuple[Any, Any]:
    """Return the values that a number goes from and to, by fractions where a schedule moves it."""
    if isinstance(value, Schedule):
        return 1.0 * value.start, 1.0 * value.end
    return value, value


def _moves(value: Any) -> bool:
    """Whether a field holds a tensor, or has one inside of it."""
    if isinstance(value, Rule):
        value = tuple(vars(value).values())
    return any(map(_moves, value)) if isinstance(value, tuple) else isinstance(value, Tensor)


def _check_shallow(name: str, value: Any) -> None:
    """Raise if a tensor lies where a module neither follows nor saves it."""
    if _moves(value) and not isinstance(value, Tensor):
        raise ArgumentError(
            f"{name} holds a tensor inside of {value!r}, where a module would not follow it; write "
            f"a number there, or make it a field of its own"
        )


def _names(rule: Any) -> tuple[str, ...]:
    """Return the names of the fields of a rule, or of its class."""
    return () if rule is None else tuple(field.name for field in dataclasses.fields(rule))


def _described(rule: Rule) -> str:
    return f"{rule} has {', '.join(_names(rule)) or 'no fields'}"
