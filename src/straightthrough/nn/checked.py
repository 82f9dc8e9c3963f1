"""Modules whose attributes are checked wherever they are assigned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import nn

from ..core.errors import ArgumentError, check_at_least, check_number

Checks = Mapping[str, Callable[[str, Any], Any]]


class Checked(nn.Module):
    """A module whose numbers, flags and names are checked as it is made, and later alike."""

    checks: ClassVar[Checks] = {}
    """The names of those that may be assigned, and what checks one and returns what is kept."""
    fixed: ClassVar[tuple[str, ...]] = ()
    """Likewise what stays as it was made."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.fixed:
            check_fixed(self, name, value)
        check = self.checks.get(name)
        super().__setattr__(name, value if check is None else check(name, value))


def check_fixed(module: nn.Module, name: str, value: Any) -> None:
    """Raise if an attribute of a module that is made would change."""
    present = module.__dict__.get(name, value)
    if value is not present and value != present:
        raise ArgumentError(
            f"{name} is {present!r} since this {type(module).__name__} was made, and can't become "
            f"{value!r}; make another"
        )


def one_of(*known: str) -> Callable[[str, Any], str]:
    """Return what checks that a value is one of some names."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise ArgumentError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        return value

    return check


check_weight = partial(check_at_least, least=0)
"""Return the number of at least 0 that a value is."""


def check_fraction(name: str, value: Any) -> Any:
    """Return the number in [0, 1) that a value is."""
    number = check_number(name, value)
    if not 0 <= number < 1:
        raise ArgumentError(f"{name} must lie in [0, 1), got {value}")
    return number
