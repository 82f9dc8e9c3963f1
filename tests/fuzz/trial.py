"""One case: a call of an operator, wholly determined by the number of the case."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from straightthrough.core.outcomes import ClassNumber, Code, KHot
from straightthrough.core.registry import OperatorRecord
from straightthrough.core.rules import Rule
from straightthrough.core.signature import shaped, sizes
from straightthrough.grids import Binary, Float, HalfInt, Int, Stretched, Ternary
from straightthrough.testing import DTYPES, Case, cases

from .values import MOST, Source, batch, laid_out, moderate, ordinary, wild

Pool = Mapping[str, Sequence[Case]]
"""The operators to choose from, each with some of its rules."""

GRIDS = (
    *(Int(bits, signed, narrow=True) for bits in (2, 8) for signed in (True, False)),
    *(Int(1, signed=False), Int(4), Stretched(1.58), Stretched(2), Ternary(), Binary()),
    *(Float("e4m3"), Float("e5m2"), Float("e2m1"), HalfInt(4)),
)

RANGES: dict[str, Callable[[Source, Any], Any]] = {
    "order": lambda source, _: source.choices.randint(1, 3),
    "zeta": lambda source, zeta: 1 + (zeta - 1) * source.scale(3),
    "gap": lambda source, gap: source.choices.choice(("expected", 0, gap * source.scale(3))),
    "eta": lambda source, eta: eta * source.scale(3) * source.choices.choice((-1, 1)),
    "threshold": lambda source, at: source.choices.choice((0.0, at * source.scale(3))),
    "eps": lambda _, eps: eps,  # ignored, and another warns
    "k": lambda source, k: source.up_to(64) if isinstance(k, int) else 1 + k * source.scale(3),
    "amplitude": lambda source, most: 2 * most * source.choices.random(),
    "grid": lambda source, _: source.choices.choice(GRIDS),
    "batch_dims": lambda source, _: source.choices.randrange(3),
    "inside": lambda source, _: source.choices.choice(("code", "value")),
    "total_count": lambda source, n: source.up_to(2**15) if n == int(n) else n * source.scale(3),
}
"""How to choose the arguments whose usual value does not say enough about what is allowed."""


def chosen(source: Source, name: str, usual: Any) -> Any:
    """Return the usual value of an argument, or another one."""
    if source.chance(0.3):
        return usual
    if name in RANGES:
        return RANGES[name](source, usual)
    if isinstance(usual, bool):
        return source.chance(0.5)
    if isinstance(usual, int):
        return source.up_to(4 * usual)
    return usual * source.scale(3) if isinstance(usual, float) else usual


@dataclass(frozen=True, eq=False)
class Trial(Case):
    """A case with its inputs, whose classes come last here and lie along `dim` in the call.

    Attributes:
        inputs: those of the call.
        direct: whether the first input is another parameter than that of the specification.
        extra: arguments of the call that the specification does not depend on.
        grad: the gradient to the value; None where the call is made without gradients.
        layout: how input and gradient lie in memory.
    """

    inputs: tuple[Tensor, ...] = field(kw_only=True)
    grad: Tensor | None = None
    direct: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    dim: int = -1
    mask: Tensor | None = None
    seed: int = 0
    kernels: bool = True
    layout: str = "contiguous"

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.inputs[0]

    def __call__(self, x: Tensor, *rest: Tensor, **_: Any) -> tuple[Tensor, ...]:
        if not self.record.takes("dim"):
            return super().__call__(x, *rest, seed=self.seed, **self.extra)
        mask = None if self.mask is None else self.mask.movedim(-1, self.dim)
        along = {**self.extra, "dim": self.dim, "mask": mask}
        y = super().__call__(x.movedim(-1, self.dim), *rest, seed=self.seed, **along)
        return self.along(y, self.dim, -1)

    def expected(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        masked = x if self.mask is None else x.masked_fill(~self.mask, -math.inf)
        return super().expected(masked, *rest)

    def __str__(self) -> str:
        given = {**self.record.arguments, **self.extra}
        given |= {"dim": self.dim} if self.record.takes("dim") else {}
        given |= {"seed": self.seed} if self.record.samples else {}
        words = [super().__str__(), *(f"{name}={value!r}" for name, value in given.items())]
        words += [f"of {self.record.inputs[0].name}"] if self.direct else []
        words += ["masked"] if self.mask is not None else []
        words += [] if self.kernels else ["without kernels"]
        return f"{' '.join(words)}, {self.layout} {self.x.dtype} {list(self.x.shape)}"


@functools.cache
def pool() -> dict[str, list[Case]]:
    """Return every registered operator with every registered rule that fits it."""
    found: dict[str, list[Case]] = {}
    for case in cases():
        found.setdefault(case.record.name, []).append(case)
    return found


def trial(number: int, among: Pool | None = None) -> Trial:
    """Return the case of that number, of every operator unless others are given."""
    among = among or pool()
    choices, noise = random.Random(number), torch.Generator().manual_seed(number)
    source = Source(choices, noise, choices.choice(DTYPES))
    case = choices.choice(among[choices.choice([*among])])
    record, direct = _parameter(source, case.record)
    x, mask = _first(source, record, direct)
    rest = _others(source, record, x)
    arguments = {name: chosen(source, name, value) for name, value in record.arguments.items()}
    if "levels" in arguments:
        arguments["levels"] += 1  # two at least
    if "k" in arguments:
        arguments["k"] = min(arguments["k"], x.shape[-1])
    record = dataclasses.replace(record, arguments=arguments)
    x, layout = laid_out(source, x)
    inputs = (x, *(laid_out(source, other)[0] for other in rest))
    grad = None
    if source.chance(0.85):
        grad, how = laid_out(source, moderate(source, [*record.shapes(*inputs)[0]]))
        layout += f" (gradient {how})"
    return Trial(
        record,
        case.rule and _rule(source, case.rule),
        soft=not arguments.get("hard", True),
        inputs=inputs,
        grad=grad,
        direct=direct,
        extra=_extra(source, case),
        dim=choices.randrange(-x.ndim, x.ndim) if record.takes("dim") else -1,
        mask=mask,
        seed=choices.randrange(-(2**63), 2**63),
        kernels=source.chance(0.75),
        layout=layout,
    )


def _parameter(source: Source, record: OperatorRecord) -> tuple[OperatorRecord, bool]:
    """Return the record, now and then with the other parameter of the function, and if so."""
    first, *rest = record.inputs
    others = [name for name in ("probs", "rate") if record.takes(name) and name != first.name]
    if others and source.chance(0.4):
        other = dataclasses.replace(first, name=others[0])
        return dataclasses.replace(record, inputs=(other, *rest)), True
    return record, False


def _first(source: Source, record: OperatorRecord, direct: bool) -> tuple[Tensor, Tensor | None]:
    if not record.inputs[0].named:
        x = wild(source, batch(source, source.up_to(MOST)))
        return (x.sigmoid() if direct and source.chance(0.7) else x), None
    # In float16 and bfloat16 not every number of a class is one of the dtype.
    numbers = isinstance(record.outcome, ClassNumber)
    most = 1 / torch.finfo(source.dtype).eps if numbers else MOST
    most = 10 if isinstance(record.outcome, Code) else most  # whose number is an int64
    if record.samples and isinstance(record.outcome, KHot):
        most = 6  # whose outcomes are enumerated, in every order
    square = len(record.inputs[0].named) == 2
    classes = source.up_to(min(most, 16 if square else 1024))
    row = [classes, classes] if square else [classes]
    shape = [*batch(source, source.up_to(MOST // math.prod(row))), *row]
    x = wild(source, shape)
    if not record.takes("mask") or not source.chance(0.3):
        return x, None
    broadcast = [size if source.chance(0.7) else 1 for size in shape]
    return x, source.uniform(broadcast) < source.choices.choice((0.2, 0.9))


def _others(source: Source, record: OperatorRecord, x: Tensor) -> list[Tensor]:
    """Choose the inputs after the first, ordinary so that products with them are numbers."""
    lead, known = sizes(record.inputs[:1], [x])
    others = record.inputs[1:]
    known |= {name: source.up_to(16) for one in others for name in one.named if name not in known}
    shapes = [[*shaped(one.dims, lead, known)] for one in others]
    found = [ordinary(source, shape).to(source.dtype) for shape in shapes]
    least = torch.finfo(source.dtype).tiny
    return [
        x.abs().clamp(min=least) if one.positive else x
        for one, x in zip(others, found, strict=True)
    ]


def _rule(source: Source, rule: Rule) -> Rule:
    usual = {f.name: getattr(rule, f.name) for f in dataclasses.fields(rule)}  # type: ignore[arg-type]  # all are dataclasses
    return type(rule)(**{name: chosen(source, name, value) for name, value in usual.items()})


def _extra(source: Source, case: Case) -> dict[str, Any]:
    """Choose the numbers of a call that the record leaves at their defaults."""
    parameters = inspect.signature(case.record.function).parameters.values()
    return {
        p.name: chosen(source, p.name, p.default)
        for p in parameters
        if isinstance(p.default, float) and p.name not in case.record.arguments and not case.rule
    }
