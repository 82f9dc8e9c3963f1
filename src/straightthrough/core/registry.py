"""One record an operator and one a rule: what tests, docs and the command line read."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .errors import ArgumentError
from .internals import constant_in_graphs
from .outcomes import Outcome
from .portable import PACKAGE
from .rules import Rule
from .signature import Input, shaped, sizes


def first_line(documented: object) -> str:
    """Return the first line of a docstring, which says what a thing is."""
    return (documented.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class RuleRecord:
    """A backward rule under a name of its own.

    Attributes:
        name: no other rule's.
        type: its class.
        shorthand: what stands for it where rules of its form are taken.
        fields: those of its fields that the name fixes, where a class has several names.
        ready: the rule with its defaults, or None where a field has none; rules are frozen, so one
            serves every call.
    """

    name: str
    type: type[Rule]
    shorthand: str
    fields: Mapping[str, Any]
    ready: Rule | None

    @property
    def summary(self) -> str:
        """The first line of the rule's docstring."""
        return first_line(self.type)

    @property
    def example(self) -> Rule:
        """The rule of that name with its defaults, and 1 for each argument that has none."""
        required = [
            f.name
            for f in dataclasses.fields(self.type)  # type: ignore[arg-type]  # all are dataclasses
            if f.default is dataclasses.MISSING
        ]
        return self.type(**dict.fromkeys(required, 1.0) | {**self.fields})


@dataclass(frozen=True)
class OperatorRecord:
    """An operator: its function, its signature, the rules that fit it, and what it promises.

    Attributes:
        name: the public name, `st.<name>`.
        family: the package under `ops` that holds it.
        function: the public function; it draws noise if it takes a `seed`, and works along a
            dimension of the first input if it takes a `dim`.
        inputs: the tensors that it takes, in the order of its gradients.
        outcome: what its value is.
        expected: the specification of the value, `expected(*inputs, **arguments)`: what is
            returned; where noise is drawn, the mean of the outcome's statistic.
        gradient: the specification of the backward, `gradient(rule, *inputs, *outputs, grad,
            noise, **arguments)` with `grad` the gradient to the value and `noise` a `Noise`: a
            gradient to each differentiable input, computed and returned in float64 (noise in the
            dtype that the inputs are computed in), differentiable.
        saved_bytes: at most this many bytes are saved for backward, `saved_bytes(rule, *inputs)`.
        rule: the keyword that takes a rule ("surrogate", "estimator" or "relaxation"), or None.
        fits: the forms of a rule that it takes.
        default: the rule it uses when none is given, or the one that is built in.
        arguments: what tests and docs call it with besides the inputs.
        forward_mode: whether it has a jvp; without one it raises.
    """

    name: str
    family: str
    function: Callable[..., Any]
    inputs: tuple[Input, ...]
    outcome: Outcome
    expected: Callable[..., Any]
    gradient: Callable[..., tuple[Tensor, ...]]
    saved_bytes: Callable[..., int]
    rule: str | None = None
    fits: tuple[type[Rule], ...] = ()
    default: Rule | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    forward_mode: bool = True

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return first_line(self.function)

    @property
    def call(self) -> Callable[..., Any]:
        """The function, its inputs first."""
        given = [one.name for one in self.inputs]
        if [*inspect.signature(self.function).parameters][: len(given)] == given:
            return self.function
        return lambda *inputs, **options: self.function(
            **dict(zip(given, inputs, strict=True)), **options
        )

    @property
    def samples(self) -> bool:
        """Whether it draws noise."""
        return self.takes("seed")

    def takes(self, argument: str) -> bool:
        """Whether the function has an argument of that name."""
        return argument in inspect.signature(self.function).parameters

    def shapes(self, *inputs: Tensor) -> list[torch.Size]:
        """Return the shapes of what it returns for these inputs, whose classes come last."""
        lead, found = sizes(self.inputs, inputs)
        return [shaped(dims, lead, found) for dims in self.outcome.outputs]

    def rules(self) -> list[RuleRecord]:
        """The registered rules that fit this operator."""
        return [record for record in RULES.values() if issubclass(record.type, self.fits)]


OPERATORS: dict[str, OperatorRecord] = {}
RULES: dict[str, RuleRecord] = {}

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Rule = TypeVar("_Rule", bound=type[Rule])


def operator(**record: Any) -> Callable[[_Function], _Function]:
    """Register the decorated function as an operator; the keywords are the record's fields."""

    def register(function: _Function) -> _Function:
        name = function.__name__
        OPERATORS[name] = OperatorRecord(name=name, function=function, **record)
        return function

    return register


def rule(name: str, *, shorthand: str = "", **fields: Any) -> Callable[[_Rule], _Rule]:
    """Register the decorated class as a rule; its shorthand is the name unless one is given.

    A class may be registered under several names, each with `fields` of its own. Of one's own
    classes a name is that of the last.

    Raises:
        ArgumentError: if the class is no frozen dataclass, or the name or the shorthand is that of
            another rule, of the library, which operators use.
    """

    def register(cls: _Rule) -> _Rule:
        _fit(cls, (Rule,))
        try:
            ready = cls(**fields)
        except TypeError:  # a field has no default
            ready = None
        made = RuleRecord(name, cls, shorthand or name, fields, ready)
        _check_free(made)
        RULES[name] = made
        _ready.cache_clear()
        return cls

    return register


def _check_free(made: RuleRecord) -> None:
    """Raise if its name, or its shorthand among rules of its form, is that of a library's rule."""
    forms = {*made.type.__mro__}.difference(Rule.__mro__)
    for known in RULES.values():
        named = known.name == made.name
        if not named and (
            known.shorthand != made.shorthand or forms.isdisjoint(known.type.__mro__)
        ):
            continue
        if known.type.__module__.startswith(f"{PACKAGE.name}.") and not _again(known, made):
            raise ArgumentError(
                f"{(known.name if named else known.shorthand)!r} is {known.type.__name__} of the "
                f"library, which operators use; register {made.type.__name__} under another name"
            )


def _again(known: RuleRecord, made: RuleRecord) -> bool:
    """Whether a rule is one that is known, its module being run again."""
    of = [(one.type.__module__, one.type.__qualname__, one.fields) for one in (known, made)]
    return of[0] == of[1]


def shorthands(*fits: type[Rule]) -> dict[str, RuleRecord]:
    """Return the rules of some forms by their shorthands."""
    known = (record for record in RULES.values() if issubclass(record.type, fits))
    return {record.shorthand: record for record in known}


def resolve(
    argument: str, given: Any, *fits: type[Rule], fields: Mapping[str, Any] | None = None
) -> Any:
    """Return the rule that `given` (a rule of one of the forms `fits`, or a shorthand) stands for.

    `fields` take the place of its own.

    Raises:
        ArgumentError: for an unknown name or a rule of another form, listing the known names, and
            for a field that it does not have; for a rule that is no frozen dataclass.
    """
    if type(given) is str and not fields:
        ready = _named(given, fits) if is_compiling() else _ready(given, fits)
        if ready is not None:
            return ready
    if isinstance(given, fits) if is_compiling() else _fit(given.__class__, fits):
        if fields:
            _check_fields(type(given), fields)
            given = dataclasses.replace(given, **fields)
        return given.settled()
    record = _record_of(given, fits) if isinstance(given, str) else None
    if record is None:
        raise ArgumentError(_unknown(argument, given, fits))
    if fields:
        _check_fields(record.type, fields)
    try:
        return record.type(**{**record.fields, **(fields or {})}).settled()
    except TypeError:
        raise ArgumentError(
            f"{argument}={given!r} has an argument without a default; "
            f"pass the rule itself, for instance {record.example!r}"
        ) from None


@functools.cache
def _fit(kind: type, fits: tuple[type[Rule], ...]) -> bool:
    """Whether what is of a class is a rule of one of the forms; it is looked at once a class."""
    if not issubclass(kind, fits):
        return False
    made = getattr(kind, "__dataclass_params__", None)
    if made is None or not made.frozen:  # else a field could change before backward
        raise ArgumentError(
            f"{kind.__name__} must be a frozen dataclass, as every rule; write "
            f"@dataclass(frozen=True) above its class"
        )
    return True


def _named(shorthand: str, fits: tuple[type[Rule], ...]) -> Rule | None:
    """Return the rule of a name with its defaults, if there is one."""
    record = RULES.get(shorthand)  # nearly all have their name for a shorthand
    if record is not None and record.shorthand == shorthand and isinstance(record.ready, fits):
        return record.ready  # at every call of compiled code each name that was read is compared
    record = _record_of(shorthand, fits)
    return None if record is None else record.ready


_ready = functools.cache(_named)


def _record_of(shorthand: str, fits: tuple[type[Rule], ...]) -> RuleRecord | None:
    named = (record for record in RULES.values() if record.shorthand == shorthand)
    return next((record for record in named if issubclass(record.type, fits)), None)


def _check_fields(rule: type[Rule], fields: Mapping[str, Any]) -> None:
    known: tuple[str, ...] = rule.__match_args__  # type: ignore[attr-defined]  # all are dataclasses
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise ArgumentError(
            f"no argument and no field of {rule.__name__} is named {', '.join(unknown)}; "
            f"it has {', '.join(known) or 'none'}"
        )


def _unknown(argument: str, given: object, fits: tuple[type[Rule], ...]) -> str:
    if isinstance(given, Tensor):
        return (
            f"{argument} must be a shorthand or the rule itself{_such(fits)}, got a tensor; "
            f"pass tensors after the first by their names, as in probs=..."
        )
    hint = _hint(given, fits) if isinstance(given, str) else ""
    known = ", ".join(shorthands(*fits))
    return (
        f"{argument}={given!r} is unknown here; {hint}known: {known}, "
        f"or, in Python, the rule itself{_such(fits)}"
    )


# While a graph is recorded these run as they are: it could not record them.
@constant_in_graphs
def _such(fits: tuple[type[Rule], ...]) -> str:
    return "".join(f", such as {record.example!r}" for record in [*shorthands(*fits).values()][:1])


@constant_in_graphs
def _hint(given: str, fits: tuple[type[Rule], ...]) -> str:
    close = difflib.get_close_matches(given, shorthands(*fits), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def check_not_rule(argument: str, given: object, rule: str) -> None:
    """Raise if a rule stands where a number of the operator belongs."""
    if type(given) is float or type(given) is int:
        return
    if isinstance(given, str | Rule):
        raise ArgumentError(
            f"{argument} must be a number, got {given!r}; the rule comes after the numbers, or by "
            f"its name: {rule}={given!r}"
        )
