"""No argument crashes a kernel, and an error names the operator and the argument.

The operators and their arguments are those of the registry; this file run as a script tries them.
"""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import straightthrough  # noqa: F401  # registers what is tried
from straightthrough.core import kernels

NAMESPACE = "straightthrough::"
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OTHER = (torch.uint8, torch.bool, torch.int32, torch.int64, torch.complex64)
SHAPE = (3, 5)
SHAPES = [(), (1,), (3,), (15,), (0,), (3, 0), (0, 5), (0, 0), (3, 4), (5, 3), (1, 3, 5), (1,) * 80]
LEVELS = [
    s for s, said in kernels.states.items() if said in (kernels.ACTIVE, "a better one is active")
]
MOST_DIRECTIONS = 8
ALIKE = ("grad", "dispersion", "count")
TABLES = ("table", "codebook")
ROWS = ("x", "z", "logits", "scores", "y", "mean", "squares", *ALIKE)
GOOD: dict[str, Any] = {  # by the name of an argument, or by its type
    **dict.fromkeys((*ROWS, *TABLES), torch.linspace(-2, 2, 15).reshape(SHAPE)),
    **dict.fromkeys(("outcome", "bits"), torch.tensor([201, 77], dtype=torch.uint8)),
    "squares": torch.linspace(-2, 2, 9).reshape(3, 3),
    "index": torch.tensor([4, -1, 0]),
    "numbers": torch.tensor([2, -1, 0, 1]),
    **dict.fromkeys(("scales", "shifts"), torch.tensor([0.5])),
    "directions": torch.linspace(-1, 1, 30).reshape(2, *SHAPE),
    "places": torch.arange(5).repeat(3, 1),
    "levels": [8, 5, 5, 5, 2],
    "seed": torch.tensor(3),
    "offset": 5,
    "samples": 2,
    "sample": 2,
    "iterations": 3,
    "k": 2,
    "trials": 7,
    "order": 3,
    "element": "e4m3",
    "block": 0,
    "mode": "",
    "float": 0.7,
    "bool": True,
}
BAD: dict[str, list[Any]] = {
    "Tensor": [
        *(torch.ones(shape, dtype=dtype) for shape in SHAPES for dtype in (*FLOATING, *OTHER)),
        *(torch.ones(SHAPE, dtype=dtype) for dtype in (*FLOATING, *OTHER)),
        # What reads a dtype as a wider one finds zeros in these, and has to see the dtype itself.
        *(torch.zeros(99, dtype=dtype)[:3] for dtype in OTHER),
        *(torch.tensor([0, wrong, 1]) for wrong in (-2, 5, 10**6, 2**63 - 1, -(2**63))),
        *(torch.ones(SHAPE[:n], dtype=dtype).to_sparse() for n in (1, 2) for dtype in FLOATING[:2]),
        torch.ones(1000, dtype=torch.uint8),
        torch.full(SHAPE, torch.nan),
        *(torch.ones(count, *SHAPE) for count in (0, MOST_DIRECTIONS + 1)),
    ],
    "int": [-(2**63), -1, 0, 2**24 + 1, 2**62, 2**63 - 1],
    "float": [torch.nan, torch.inf, -torch.inf, 0.0, -1.0, 1e308],
    "bool": [False],
    "str": ["", "e4m4", "floor", "e4m3\0"],
    "List[int]": [[], [5], [8, 5, 5, 5, 1], [2**62] * 5, [2**62 + 1] * 5, [5] * 1000],
}


def operators() -> list[torch._ops.OpOverload]:
    """Return every overload that is registered and has a kernel, but for the seed's."""
    every = torch._C._dispatch_get_all_op_names()
    names = [n for n in every if n.startswith(NAMESPACE) and n != f"{NAMESPACE}fresh_seed"]
    packets = (name.removeprefix(NAMESPACE).split(".") for name in sorted(names))
    found = [getattr(getattr(torch.ops.straightthrough, p[0]), (*p, "default")[1]) for p in packets]
    return [op for op in found if op.has_kernel_for_dispatch_key(torch._C.DispatchKey.CPU)]


def is_number(argument: Any) -> bool:
    """Whether it is a tensor in the place of a float, in an overload `numbers`."""
    return str(argument.type) == "Tensor" and argument.name not in GOOD


def good(op: torch._ops.OpOverload) -> list[Any]:
    def of(argument: Any) -> Any:
        if is_number(argument):
            return torch.tensor(GOOD["float"], dtype=torch.float64)
        return GOOD[argument.name] if argument.name in GOOD else GOOD[str(argument.type)]

    arguments = op._schema.arguments
    found = {argument.name: of(argument) for argument in arguments}
    if "squares" in found:
        found["grad"] = found["squares"].mT
    return [*found.values()]


def refused(op: torch._ops.OpOverload, place: int, value: Any, first: Tensor) -> bool:
    """Whether `value` alone is wrong in that place, whatever the others are."""
    name = op._schema.arguments[place].name
    if isinstance(value, Tensor) and value.is_sparse:
        return False  # the reference has it
    if is_number(op._schema.arguments[place]):
        return value.dtype != torch.float64 or value.dim() > 0
    if name == "seed":
        return value.dtype != torch.int64 or value.numel() != 1
    if name in ("outcome", "bits"):
        bools = value.dtype == torch.bool and value.shape == SHAPE
        return not bools and (value.dtype != torch.uint8 or value.shape != (2,))
    if name == "index":
        wrong = value.dtype != torch.int64 or value.shape != SHAPE[:-1]
        return wrong or bool(((value < -1) | (value >= SHAPE[-1])).any())
    if name == "numbers":
        wrong = value.dtype != torch.int64 or value.dim() > 63
        return wrong or bool(((value < -1) | (value >= SHAPE[0])).any())
    if name == "codebook":
        return value.dtype != first.dtype or value.dim() != 2 or value.shape[1] != SHAPE[1]
    if name == "levels":
        return len(value) != SHAPE[-1] or not all(2 <= n <= 2**62 for n in value)
    if name in ("scales", "shifts"):
        wide = torch.promote_types(first.dtype, torch.float32)
        return value.dtype != wide or value.numel() != 1 or value.dim() > 64
    if name == "directions":
        wrong = value.dtype != first.dtype or value.shape[1:] != SHAPE
        return wrong or len(value) > MOST_DIRECTIONS
    if name == "squares" and (value.dim() < 2 or not 0 < value.shape[-1] == value.shape[-2]):
        return True
    if place == 0:
        return value.dtype not in FLOATING or value.dim() > 64
    if name in ALIKE:
        return value.dtype != first.dtype or value.shape != first.shape
    bounds = {
        "offset": range(2**62),
        **dict.fromkeys(("samples", "iterations"), range(1, 2**24 + 1)),
        "sample": range(2**24),
        "k": range(1, 6),
        "trials": range(1, 2**15 + 1),
        "order": range(1, 4),
        "block": range(1),
        "element": ("e4m3",),
        "mode": ("",),
    }
    return name in bounds and value not in bounds[name]


def cases(op: torch._ops.OpOverload) -> Iterator[tuple[list[Any], str]]:
    """Return arguments to try, and how the error begins where there must be one."""
    right, arguments = good(op), op._schema.arguments
    yield right, ""
    for place, argument in enumerate(arguments):
        named = f"argument {place + 1}" if is_number(argument) else argument.name
        for value in BAD[str(argument.type)]:
            wrong = refused(op, place, value, right[0])
            said = f"{NAMESPACE}{op._schema.name.removeprefix(NAMESPACE)}: {named} must "
            yield [*right[:place], value, *right[place + 1 :]], said if wrong else ""
    for shape in SHAPES:
        bits = torch.zeros(-(-torch.Size(shape).numel() // 8), dtype=torch.uint8)
        of_shape = {
            "index": torch.zeros(shape[:-1], dtype=torch.int64),
            "outcome": bits,
            "bits": bits,
            "directions": torch.zeros(2, *shape),
        }
        rows = dict.fromkeys(ROWS, torch.zeros(shape)) | of_shape
        yield [rows.get(a.name, v) for a, v in zip(arguments, right, strict=True)], ""


NUMBERS_OF_ROWS = ("two_largest",)
"""Whose numbers are a row's, and not an element's."""
PLACES_OF_ELEMENTS = ("ranks",)
"""Whose indices are an element's, and not a row's."""


def result_is_right(result: Any, first: Tensor, *rest: Any, name: str = "") -> bool:
    """Whether each result has the shape that its dtype tells: a value, indices or bits.

    Behind the bits of a window may come those of NaN.
    """
    if name == "codewords":
        wide = torch.promote_types(first.dtype, torch.float32)
        return (result.dtype, result.shape) == (wide, (*rest[0].shape, first.shape[-1]))
    count = -(-first.numel() // 8)
    shapes: dict[torch.dtype, list[Any]] = {
        torch.int64: [first.shape if name in PLACES_OF_ELEMENTS else first.shape[:-1]],
        torch.uint8: [(count,), (2 * count,)],
    }
    of_scale = torch.promote_types(first.dtype, torch.float32)
    shapes[of_scale] = [(), (1,)]
    value = first.shape[:-1] if name in NUMBERS_OF_ROWS else first.shape
    shapes[first.dtype] = [*shapes.get(first.dtype, []), value]
    results = result if isinstance(result, tuple) else (result,)
    return all(each.shape in shapes.get(each.dtype, []) for each in results)


def attempt(call: Any, given: list[Any], said: str, name: str = "") -> str | None:
    """Call, and return what is wrong with what comes of it."""
    try:
        result = call(*given)
    except Exception as error:
        return None if str(error).startswith(said) else f"says {str(error)[:200]!r}, not {said!r}"
    if said:
        return f"does not say {said!r}"
    right = result_is_right(result, *given, name=name)
    return None if right else "has a result of another shape"


def elsewhere(given: list[Any]) -> Iterator[list[Any]]:
    """Return the arguments with one tensor after the other on a device without memory."""
    for place, value in enumerate(given):
        if isinstance(value, Tensor):
            yield [*given[:place], value.to("meta"), *given[place + 1 :]]


def brief(value: Any) -> str:
    if not isinstance(value, Tensor):
        return str(value)
    kind = f"{value.dtype} {[*value.shape]} on {value.device}"
    short = value.numel() < 4 and value.dim() < 2 and value.is_cpu and not value.is_sparse
    return f"{kind} {value.tolist()}" if short else kind


def try_all() -> Iterator[str]:
    on_cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    for op in operators():
        op(*good(op))
        for given, said in cases(op):
            print(op, *map(brief, given), file=sys.stderr)
            if failure := attempt(op, given, said, op._opname):
                yield f"{op} of {', '.join(map(brief, given))} {failure}"
        for given in elsewhere(good(op)):
            attempt(op, given, "")  # which the reference serves
            if failure := attempt(partial(op.redispatch, on_cpu), given, NAMESPACE):
                yield f"the kernel of {op}, of {', '.join(map(brief, given))} {failure}"


@pytest.mark.kernels
@pytest.mark.parametrize("op", operators(), ids=str)
def test_numbers_in_tensors_give_the_same_bits(op):
    floats = [a.name for a in op._schema.arguments if str(a.type) == "float"]
    overloads = getattr(torch.ops.straightthrough, op._opname).overloads()
    assert ("numbers" in overloads) == (bool(floats) or op._overloadname == "numbers")
    if floats:
        moving = getattr(torch.ops.straightthrough, op._opname).numbers
        with torch.no_grad():
            given, expected = moving(*good(moving)), op(*good(op))
        torch.testing.assert_close(given, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.kernels
@pytest.mark.parametrize("level", LEVELS)
def test_no_argument_crashes_a_kernel_and_what_is_wrong_is_named(level):
    environment = os.environ | {kernels.VARIABLE: level}
    command = [sys.executable, __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    last = run.stderr.splitlines()[-1:]
    assert run.returncode >= 0, f"crashed with signal {-run.returncode} at {last}"
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    found = list(itertools.islice(try_all(), 20))
    print("\n".join(found))
    sys.exit(bool(found))
