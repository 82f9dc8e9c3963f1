"""Objects as text: how an operation travels in a compiled or exported graph.

A graph holds strings, whole numbers and tensors. An operation is written as a string of its class
and its fields; its whole numbers and, in compiled code, its numbers travel beside it, so that a new
temperature is an argument and not another graph:

    ops.categorical.operation.OneHotDraw(rule=estimators.reinmax.ReinMax(tau=number(0)), ...)

Only subclasses of `Portable` can be read back, whoever wrote the text.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling

from .errors import ArgumentError
from .internals import constant_in_graphs

PACKAGE = Path(__file__).parent.parent
_CLASSES: WeakValueDictionary[str, type[Portable]] = WeakValueDictionary()


class Portable:
    """A dataclass of numbers, strings, tuples and other portable objects."""

    label: ClassVar[str]
    fingerprint: ClassVar[str]
    numbers_move: ClassVar[bool] = True  # whether compiled code takes them as arguments

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        name = f"{cls.__module__}.{cls.__qualname__}".replace(".<locals>", "")
        name = name.removeprefix(f"{PACKAGE.name}.")
        taken = sum(known == name or known.startswith(f"{name}__") for known in _CLASSES)
        cls.label = f"{name}__{taken}" if taken else name
        cls.fingerprint = _fingerprint(cls.__module__)
        _CLASSES[cls.label] = cls


# torch keeps compiled graphs from one process to the next, and doesn't see that the Python behind
# an operator has changed; a hash of it in the operator's arguments makes that another graph. What a
# class from elsewhere computes by, its helpers and their constants, has no such hash: it is always
# another graph. Of that the compiler still knows the kernels, which it keeps by what they compute.
def _fingerprint(module: str) -> str:
    """Return what tells a class that is being defined in `module` from all others of its label."""
    return _own_sources() if module.partition(".")[0] == PACKAGE.name else secrets.token_hex(6)


@functools.cache
def _own_sources() -> str:
    """Return a hash of the library's files."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_TENSORS = (Tensor, np.floating, np.ndarray)  # the last is what compiled code sees in one of numpy


def write(x: Any, numbers: list[Tensor], integers: list[int], move: bool) -> str:
    """Return `x` as text; what travels beside it is appended to `numbers` and `integers`."""
    if x is None or isinstance(x, bool | str):
        return repr(x)
    if isinstance(x, float):
        # Of a number that moved the compiler makes a symbol, whose class is another; what is in a
        # set it takes for a constant again.
        if x.__class__ is float:
            return _digits(x)
        if not (move and is_compiling()):
            return _digits(*{x})
        # A product, as the compiler takes the number for an argument there.
        numbers.append(torch.ones((), dtype=torch.float64, device="cpu") * x)
        return f"number({len(numbers) - 1})"
    if isinstance(x, tuple):
        return "(" + "".join(write(each, numbers, integers, move) + ", " for each in x) + ")"
    if isinstance(x, Portable):
        start, names, move = _form(type(x))
        parts = []
        for name in names:
            check_field(name, value := getattr(x, name))
            parts.append(f", {name}={write(value, numbers, integers, move)}")
        return f"{start}{''.join(parts)})"
    if not isinstance(x, int) and isinstance(x, _TENSORS):
        numbers.append(x if isinstance(x, Tensor) else torch.as_tensor(x, device="cpu"))
        return f"number({len(numbers) - 1})"
    if not move:
        return _whole(*{x})
    integers.append(x)  # an int, or one of torch's that stands for a size left open
    return f"integer({len(integers) - 1})"


_SEVERAL = (list, dict, set, frozenset, range)
_ARRAYS = (Tensor, np.ndarray)


def check_field(name: str, value: object) -> None:
    """Raise if a field holds what may change, or what several numbers are in but a tuple."""
    if isinstance(value, tuple):
        for each in value:
            check_field(name, each)
    elif isinstance(value, _SEVERAL) or (isinstance(value, _ARRAYS) and value.ndim):
        raise ArgumentError(
            f"{name} must be a number, a string, None, a rule, or a tuple of these, got "
            f"{type(value).__name__}; write a tuple"
        )


# A call of these leaves a constant in a compiled graph, and no guards for every call to check.
@constant_in_graphs
def _digits(x: float) -> str:
    return repr(float(x)).replace("inf", "1e999")


@constant_in_graphs
def _whole(x: int) -> str:
    return repr(int(x))


@constant_in_graphs
def _form(cls: type[Portable]) -> tuple[str, tuple[str, ...], bool]:
    names = tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]  # all are dataclasses
    return f"{cls.label}({cls.fingerprint!r}", names, cls.numbers_move


def read(text: str, numbers: Sequence[Tensor], integers: Sequence[int]) -> Any:
    """Return the object that `text` describes."""
    return _reader(text)(numbers, integers)


Build = Callable[[Sequence[Tensor], Sequence[int]], Any]


@functools.lru_cache(maxsize=1024)
def _reader(text: str) -> Build:
    return _build(ast.parse(text, mode="eval").body)


def _build(node: ast.expr) -> Build:
    if isinstance(node, ast.Tuple):
        parts = [_build(each) for each in node.elts]
        return lambda numbers, integers: tuple(part(numbers, integers) for part in parts)
    if not isinstance(node, ast.Call):
        value = ast.literal_eval(node)
        return lambda numbers, integers: value
    name = ast.unparse(node.func)
    if name in ("number", "integer"):
        place = ast.literal_eval(node.args[0])
        return lambda numbers, integers: (numbers if name == "number" else integers)[place]
    fields = {str(keyword.arg): _build(keyword.value) for keyword in node.keywords}
    return functools.partial(_instance, name, fields)


def _instance(
    label: str, fields: dict[str, Build], numbers: Sequence[Tensor], integers: Sequence[int]
) -> Portable:
    cls = _CLASSES.get(label)
    if cls is None:
        raise LookupError(
            f"this graph needs the class {label}, which is not defined here; "
            f"import the module that defines it before you run the graph"
        )
    new = object.__new__(cls)  # its fields were checked when it was written
    for name, build in fields.items():
        object.__setattr__(new, name, build(numbers, integers))
    return new
