"""What every module with a backward rule shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from ..core.errors import ArgumentError
from ..core.registry import RULES, resolve
from ..core.rules import Rule
from .schedules import Schedule

Number = float | Tensor | Schedule
R = TypeVar("R", bound=Rule)


class RuleModule(nn.Module, Generic[R]):
    """A module with a backward rule, each of whose fields may follow a schedule.

    Fields given by name replace the rule's own: `Categorical("reinmax", tau=1.1)` has the rule
    `ReinMax(tau=1.1)`, and `Categorical("reinmax", tau=Linear(2.0, 1.0, steps=100))` the one
    whose `tau` is the schedule's value at each forward. The schedule is a submodule under the
    field's name, a 0-d tensor a buffer, and what is written into it counts from the next forward.

    Args:
        keyword: what the operator calls its rule, "surrogate" or "estimator".
        given: a rule or its shorthand.
        fits: the forms of a rule that the operator takes.
        fields: numbers and schedules for fields of the rule.

    Raises:
        ArgumentError: for an unknown rule or field, or a value (of a schedule: its start or its
            end) that the rule refuses.
    """

    def __init__(
        self, keyword: str, given: R | str, fits: tuple[type[Rule], ...], fields: Mapping[str, Any]
    ) -> None:
        super().__init__()
        scheduled = {name: v for name, v in fields.items() if isinstance(v, Schedule)}
        at_start = {name: schedule.start for name, schedule in scheduled.items()}
        at_end = {name: schedule.end for name, schedule in scheduled.items()}
        self._keyword = keyword
        self._rule: R = _with_fields(keyword, given, fits, {**fields, **at_start})
        dataclasses.replace(self._rule, **at_end)
        self._scheduled = tuple(scheduled)
        self._tensors = tuple(name for name, v in fields.items() if isinstance(v, Tensor))
        for name, schedule in scheduled.items():
            self.register_module(name, schedule)
        for name in self._tensors:
            self.register_buffer(name, fields[name])

    @property
    def rule(self) -> R:
        """The rule at the schedules' present values."""
        if not self._scheduled and not self._tensors:
            return self._rule
        values = {name: getattr(self, name).current for name in self._scheduled}
        values |= {name: getattr(self, name) for name in self._tensors}
        return dataclasses.replace(self._rule, **values)  # type: ignore[type-var]  # all are dataclasses

    def observe(self, logits: Tensor, dim: int, mask: Tensor | None) -> None:
        """Show the schedules what a forward in training chooses from."""
        for name in self._scheduled:
            getattr(self, name).observe(logits, dim, mask)

    def extra_repr(self) -> str:
        return f"{self._keyword}={self.rule}"


def _with_fields(
    keyword: str, given: object, fits: tuple[type[Rule], ...], fields: Mapping[str, float]
) -> Any:
    """Return the rule that `given` stands for, with `fields` in the place of its own."""
    record = RULES.get(given) if isinstance(given, str) else None
    try:
        if record is not None and issubclass(record.type, fits):
            return record.type(**fields)
        return dataclasses.replace(resolve(keyword, given, *fits), **fields)
    except TypeError:
        rule = resolve(keyword, given, *fits)
        known = [field.name for field in dataclasses.fields(rule)]
        raise ArgumentError(
            f"{rule} has no field of the names {', '.join(fields)}; "
            f"it has {', '.join(known) or 'none'}"
        ) from None
