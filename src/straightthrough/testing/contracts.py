"""Checks of what surrounds the numbers: errors, masks, dimensions, the rule as an object."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import pickle
from collections.abc import Callable

import torch
from torch import Tensor

from ..core.errors import ArgumentError, DtypeError, ShapeError, StraightThroughError, strict
from ..core.rules import Rule
from .case import CLASSES, SEED, Case, assert_bits, assert_close, check

REFUSED: dict[str, list[object]] = {
    "surrogate": ["nonsense", 3, None],
    "estimator": ["nonsense", 3, None],
    "tau": [0, -1.0, math.nan, math.inf, "warm"],
    "threshold": [math.nan, math.inf, "high"],
    "min": [math.nan, -math.inf, 2.0],
    "max": [math.nan, math.inf, -2.0],
    "gamma": [0.0, math.nan],
    "zeta": [1.0, math.inf],
    "total_count": [0, -1, math.nan, math.inf, "many", True],
    "k": [0, CLASSES + 1, 1.5, True],
    "seed": [0.5, True, "lucky", 2**63],
}
"""Values that an argument of this name must be refused with an `ArgumentError`."""


@check()
def check_errors(case: Case) -> None:
    """Wrong inputs and arguments raise the declared errors, whose text names what was wrong."""
    x = case.input()
    _assert_raises(case, DtypeError, "int64", lambda: case(x.long()))
    _assert_raises(case, DtypeError, "complex64", lambda: case(x.to(torch.complex64)))
    _assert_raises(case, DtypeError, "list", lambda: case([1.0, 2.0]))  # type: ignore[arg-type]  # wrong on purpose
    parameters = inspect.signature(case.record.function).parameters
    for name in REFUSED.keys() & parameters.keys():
        for value in REFUSED[name]:
            _assert_raises(case, ArgumentError, name, functools.partial(case, x, **{name: value}))


@check(lambda case: case.record.samples)
def check_seed_errors(case: Case) -> None:
    """A seed beside a generator, and a tensor that is no seed, are refused."""
    x, generator = case.input(), torch.Generator()
    _assert_raises(case, ArgumentError, "generator", lambda: case(x, SEED, generator=generator))
    _assert_raises(case, DtypeError, "int64", lambda: case(x, torch.tensor(1.0)))
    _assert_raises(case, ShapeError, "0-d", lambda: case(x, torch.tensor([1, 2])))


@check(lambda case: case.record.rows)
def check_row_errors(case: Case) -> None:
    """No row, no class, no such dimension, no such mask: each is refused."""
    x = case.input()
    _assert_raises(case, ShapeError, "0-d", lambda: case(x[0, 0]))
    _assert_raises(case, ShapeError, "class", lambda: case(x[:, :0]))
    _assert_raises(case, ShapeError, "dim", lambda: case(x, dim=2))
    _assert_raises(case, ShapeError, "dim", lambda: case(x, dim=-3))
    _assert_raises(case, DtypeError, "bool", lambda: case(x, mask=torch.ones_like(x)))
    _assert_raises(case, ShapeError, "mask", lambda: case(x, mask=x[:, 1:] > 0))
    _assert_raises(case, ShapeError, "mask", lambda: case(x, mask=x.expand(2, 3, -1) > 0))


def _assert_raises(
    case: Case, kind: type[StraightThroughError], text: str, call: Callable[[], object]
) -> None:
    try:
        call()
    except Exception as error:
        if isinstance(error, kind) and text in str(error):
            return
        raise AssertionError(
            f"{case}: {type(error).__name__}, not a {kind.__name__} about {text!r}: {error}"
        ) from error
    raise AssertionError(f"{case}: no {kind.__name__} about {text!r}")


@check()
def check_strict(case: Case) -> None:
    """Inside `strict()` an input without an outcome raises, naming the place; others don't."""
    x = case.input()
    y = case(x)
    with strict():
        assert_bits(case(x), y, f"{case}: value in strict()")
        x[1, 2] = math.nan
        place = "(1,)" if case.record.rows else "(1, 2)"
        if case.record.rows or case.record.samples:
            _assert_raises(case, ArgumentError, place, lambda: case(x))
        else:
            case(x)


@check(lambda case: case.record.rows)
def check_mask(case: Case) -> None:
    """A masked class has value 0 and gradient 0, as if it were not there."""
    x, grad = case.input(8), case.of_value(case.input(8, seed=1))
    mask = torch.tensor([True, False, True, True, False]).to(x.device)
    y, gradient = case.pull(x, grad, mask=mask)
    assert not bool(case.shown(y, x)[..., ~mask].any()), f"{case}: a masked class was chosen"
    assert not bool(gradient[..., ~mask].any()), f"{case}: a masked class has a gradient"
    infinite = x.masked_fill(~mask, -math.inf)
    infinite_y, infinite_gradient = case.pull(infinite, grad)
    case.assert_same(y, infinite_y, "value under a mask against -inf")
    assert_close(gradient, infinite_gradient, f"{case}: gradient under a mask against -inf")
    none = case(x, mask=torch.zeros_like(mask))
    assert bool(none.isnan().all()), f"{case}: a value where no class is allowed"


@check(lambda case: case.record.rows)
def check_dim(case: Case) -> None:
    """Classes along another dimension give what they give along the last, moved there."""
    x, grad = case.input(2), case.of_value(case.input(2, seed=1))
    last_y, last_gradient = case.pull(x, grad)

    def moved(value: Tensor, source: int, to: int) -> Tensor:
        return value if case.record.numbers else value.movedim(source, to)

    for dim in (0, 1, -2):
        y, gradient = case.pull(x.movedim(-1, dim), moved(grad, -1, dim), dim=dim)
        case.assert_same(moved(y, dim, -1), last_y, f"value along dim {dim}")
        assert_close(gradient.movedim(dim, -1), last_gradient, f"{case}: gradient along dim {dim}")


@check(lambda case: case.rule is not None)
def check_rule_object(case: Case) -> None:
    """A rule is a value: frozen, hashable, equal to its copies; its repr makes it again."""
    rule = case.rule
    assert isinstance(rule, Rule)
    copiers: dict[str, Callable[[Rule], object]] = {
        "pickle": lambda rule: pickle.loads(pickle.dumps(rule)),
        "deepcopy": copy.deepcopy,
        "repr": lambda rule: eval(repr(rule), {type(rule).__name__: type(rule)}),
    }
    for how, copier in copiers.items():
        try:
            twin = copier(rule)
        except Exception as error:
            raise AssertionError(f"{case}: no copy by {how}: {error}") from error
        assert twin == rule, f"{case}: not equal to its copy by {how}, {twin!r}"
        assert hash(twin) == hash(rule), f"{case}: another hash than its copy by {how}"
    try:
        rule.tau = rule.width = 0.0  # type: ignore[attr-defined]  # wrong on purpose
    except AttributeError:
        return
    raise AssertionError(f"{case}: not frozen; declare it with @dataclass(frozen=True)")
