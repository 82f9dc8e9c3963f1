"""Checks of what surrounds the numbers: errors, masks, dimensions, the rule as an object."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..core.errors import ArgumentError, DtypeError, ShapeError, StraightThroughError, strict
from ..core.rules import Rule
from .case import CLASSES, Case, Tensors, check
from .compare import assert_bits, assert_close

REFUSED: dict[str, list[object]] = {
    "surrogate": ["nonsense", 3, None],
    "estimator": ["nonsense", 3, None],
    "relaxation": ["nonsense", 3, None],
    "rule": ["nonsense", 3, None],
    "grid": ["nonsense", 4, None],
    "zero_point": [0.5, math.nan, 10**6, True, "middle"],
    "offset": [math.nan, math.inf],
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
    inputs = case.input()
    for i, x in enumerate(inputs):
        wrong: dict[str, Any] = {
            "int64": x.long(),
            "complex64": x.to(torch.complex64),
            "list": [1.0, 2.0],
        }
        wrong |= {"float64": x.double()} if i else {}  # beside a first input in float32
        for text, value in wrong.items():
            given = [*inputs[:i], value, *inputs[i + 1 :]]
            _assert_raises(case, DtypeError, text, functools.partial(case, *given))
    for text, misfits in _misfits(case, inputs):
        _assert_raises(case, ShapeError, text, functools.partial(case, *misfits))
    parameters = inspect.signature(case.record.function).parameters
    for name in REFUSED.keys() & parameters.keys() - {one.name for one in case.record.inputs}:
        for value in REFUSED[name]:
            call = functools.partial(case, *inputs, **{name: value})
            _assert_raises(case, ArgumentError, name, call)


def _misfits(case: Case, inputs: Tensors) -> Iterator[tuple[str, list[Any]]]:
    """Yield inputs that do not fit together, with the name of the one that is to blame."""
    known = {*case.record.inputs[0].named}
    first = inputs[0]
    for i, one in enumerate(case.record.inputs[1:], 1):
        x, named = inputs[i], one.named
        if one.broadcasts:
            for misfit in (torch.ones_like(first)[None], first.new_ones(first.shape[-1] + 1)):
                yield one.name, [*inputs[:i], misfit, *inputs[i + 1 :]]
            continue
        misfits = [] if one.batched else [x[..., None], x[..., 0]]
        misfits += [x.narrow(named.index(n) - len(named), 0, 1) for n in named if n in known]
        known |= {*named}
        yield from ((one.name, [*inputs[:i], misfit, *inputs[i + 1 :]]) for misfit in misfits)


@check(lambda case: case.record.samples)
def check_seed_errors(case: Case) -> None:
    """A seed beside a generator, and a tensor that is no seed, are refused."""
    call = functools.partial(case, *case.input())
    _assert_raises(case, ArgumentError, "generator", lambda: call(generator=torch.Generator()))
    _assert_raises(case, DtypeError, "int64", lambda: call(seed=torch.tensor(1.0)))
    _assert_raises(case, ShapeError, "0-d", lambda: call(seed=torch.tensor([1, 2])))


def _has_mask(case: Case) -> bool:
    return case.record.takes("dim") and case.record.takes("mask")


@check(_has_mask)
def check_row_errors(case: Case) -> None:
    """No row, no class, no such dimension, no such mask: each is refused."""
    x, *rest = case.input()
    _assert_raises(case, ShapeError, "0-d", lambda: case(x[0, 0], *rest))
    _assert_raises(case, ShapeError, "class", lambda: case(x[:, :0], *rest))
    _assert_raises(case, ShapeError, "dim", lambda: case(x, *rest, dim=2))
    _assert_raises(case, ShapeError, "dim", lambda: case(x, *rest, dim=-3))
    _assert_raises(case, DtypeError, "bool", lambda: case(x, *rest, mask=torch.ones_like(x)))
    _assert_raises(case, ShapeError, "mask", lambda: case(x, *rest, mask=x[:, 1:] > 0))
    _assert_raises(case, ShapeError, "mask", lambda: case(x, *rest, mask=x.expand(2, 3, -1) > 0))


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
    inputs = case.input()
    outputs = case(*inputs)
    with strict():
        assert_bits(case(*inputs), outputs, f"{case}: value in strict()")
        inputs[0][1, 2] = math.nan
        if case.record.outcome.everywhere:
            case(*inputs)
        else:
            place = "(1,)" if case.record.inputs[0].named else "(1, 2)"
            _assert_raises(case, ArgumentError, place, lambda: case(*inputs))


@check(_has_mask)
def check_mask(case: Case) -> None:
    """A masked class has value 0 and gradient 0, as if it were not there."""
    inputs = case.input(8)
    x, *rest = inputs
    grad = case.incoming(inputs)
    mask = torch.tensor([True, False, True, True, False]).to(x.device)
    outputs, gradients = case.backward(inputs, grad, mask=mask)
    chosen = case.statistic(outputs, inputs)[..., ~mask]
    assert not bool(chosen.any()), f"{case}: a masked class was chosen"
    assert not bool(gradients[0][..., ~mask].any()), f"{case}: a masked class has a gradient"
    infinite = x.masked_fill(~mask, -math.inf)
    infinite_outputs, infinite_gradients = case.backward([infinite, *rest], grad)
    case.assert_same(outputs, infinite_outputs, "value under a mask against -inf")
    assert_close(gradients, infinite_gradients, f"{case}: gradient under a mask against -inf")
    none = case(*inputs, mask=torch.zeros_like(mask))[0]
    assert bool(none.isnan().all()), f"{case}: a value where no class is allowed"


@check(lambda case: case.record.takes("dim"))
def check_dim(case: Case) -> None:
    """Classes along another dimension give what they give along the last, moved there."""
    inputs = case.input(2)
    x, *rest = inputs
    grad = case.incoming(inputs)
    last_outputs, last_gradients = case.backward(inputs, grad)
    for dim in (0, 1, -2):
        moved = case.along([grad], -1, dim)[0]
        outputs, (to_x, *others) = case.backward([x.movedim(-1, dim), *rest], moved, dim=dim)
        case.assert_same(case.along(outputs, dim, -1), last_outputs, f"value along dim {dim}")
        about = f"{case}: gradient along dim {dim}"
        assert_close([to_x.movedim(dim, -1), *others], last_gradients, about)


@check(lambda case: case.rule is not None)
def check_rule_object(case: Case) -> None:
    """A rule is a value: hashable, equal to its copies; its repr makes it again."""
    rule = case.rule
    assert isinstance(rule, Rule)
    copiers: dict[str, Callable[[Rule], object]] = {
        "pickle": lambda rule: pickle.loads(pickle.dumps(rule)),
        "deepcopy": copy.deepcopy,
        "repr": lambda rule: eval(repr(rule), _classes(rule)),
    }
    for how, copier in copiers.items():
        try:
            twin = copier(rule)
        except Exception as error:
            raise AssertionError(f"{case}: no copy by {how}: {error}") from error
        assert twin == rule, f"{case}: not equal to its copy by {how}, {twin!r}"
        assert hash(twin) == hash(rule), f"{case}: another hash than its copy by {how}"


def _classes(value: object) -> dict[str, type]:
    """Return the classes of a rule and of those in its fields, by their names."""
    if isinstance(value, Rule):
        found = {type(value).__name__: type(value)}
        return found | _classes(tuple(vars(value).values()))
    if not isinstance(value, tuple):
        return {}
    return {name: cls for each in value for name, cls in _classes(each).items()}
