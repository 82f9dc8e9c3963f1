"""What a check looks at: an operator with one rule, the inputs it gets, and how values compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import FLOATING, StraightThroughError
from ..core.noise import Noise
from ..core.registry import OPERATORS, OperatorRecord
from ..core.rules import Rule
from ..core.signature import names, shaped
from .compare import assert_bits, assert_close

Tensors = Sequence[Tensor]

SEED = 20
"""The seed of every draw that a check makes, unless the check is about seeds."""

CLASSES = 5
"""Classes a row."""

DTYPES = FLOATING

_SIZES = (CLASSES, 4, 3)
"""Of the named dimensions, in the order of the inputs."""


@dataclass(frozen=True)
class Case:
    """An operator with one of its rules, on one device.

    Attributes:
        record: the operator, registered or not.
        rule: the rule it is given; None for the one that is built in.
        device: where the inputs lie.
        soft: whether the value is a soft one: then a sum or a sigmoid may round otherwise in
            another layout, and no hard value is specified.
    """

    record: OperatorRecord
    rule: Rule | None = None
    device: str = "cpu"
    soft: bool = False

    def __post_init__(self) -> None:
        if not __debug__:
            raise StraightThroughError(
                "checks are assertions, which python -O and PYTHONOPTIMIZE leave out, so that all "
                "would pass; run them without"
            )

    def __str__(self) -> str:
        mode = "soft " if self.soft else ""
        return f"{mode}{self.record.name}-{self.rule or 'default'}"

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of a call, those of the record and the rule."""
        chosen = {} if self.rule is None else {str(self.record.rule): self.rule}
        return {**self.record.arguments, **chosen}

    def __call__(
        self, *inputs: Tensor, seed: object = SEED, **overrides: Any
    ) -> tuple[Tensor, ...]:
        """Return all that the operator returns; a seed is passed only to one that samples."""
        drawn = {"seed": seed} if self.record.samples else {}
        returned = self.record.call(*inputs, **{**self.options, **drawn, **overrides})
        return returned if isinstance(returned, tuple) else (returned,)

    def expected(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what is specified to be returned, or where noise is drawn the mean alone."""
        x, *rest = inputs
        if self.rule is not None and self.rule.tau_forward != 1:
            most = torch.finfo(torch.float64).max
            tau = max(self.rule.tau_forward, torch.finfo(torch.float64).tiny)
            x = torch.where(x.isinf(), x, (x.double() / tau).clamp(-most, most))
        specified = self.record.expected(x, *rest, **self.record.arguments)
        return specified if isinstance(specified, tuple) else (specified,)

    def mean(self, *inputs: Tensor) -> Tensor:
        """Return the specified mean of the outcome's statistic."""
        expected = self.expected(*inputs)
        return expected[0] if self.record.samples else self.statistic(expected, inputs)

    def statistic(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return the outcome's statistic of what was returned."""
        return self.record.outcome.statistic(outputs, inputs)

    def gradients(self, inputs: Tensors, outputs: Tensors, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the specified gradients, in float64."""
        rule = self.rule or self.record.default
        noise = Noise(torch.tensor(SEED, device=grad.device))
        arguments = self.record.arguments
        return self.record.gradient(rule, *inputs, *outputs, grad, noise, **arguments)

    def backward(
        self, inputs: Tensors, grad: Tensor, **overrides: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return what is returned for `inputs` and the gradients that `grad` gives there."""
        leaves = self.leaves(inputs)
        y, *others = self(*leaves, **overrides)
        assert y.requires_grad, f"{self}: the value of an input that requires grad does not"
        assert y.shape == grad.shape, f"{self}: {tuple(inputs[0].shape)} gave {tuple(y.shape)}"
        gradients = torch.autograd.grad(
            y, self.differentiable(leaves), grad, materialize_grads=True
        )
        return (y.detach(), *others), gradients

    def leaves(self, inputs: Tensors) -> tuple[Tensor, ...]:
        """Return the inputs, the differentiable ones requiring grad."""
        pairs = zip(self.record.inputs, inputs, strict=True)
        return tuple(x.detach().requires_grad_(one.differentiable) for one, x in pairs)

    def differentiable(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Return those, of one thing an input, that belong to the differentiable inputs."""
        pairs = zip(self.record.inputs, inputs, strict=True)
        return tuple(x for one, x in pairs if one.differentiable)

    def replaced(self, inputs: Tensors, moving: Tensors) -> tuple[Tensor, ...]:
        """Return the inputs with others in the place of the differentiable ones."""
        others = iter(moving)
        pairs = zip(self.record.inputs, inputs, strict=True)
        return tuple(next(others) if one.differentiable else x for one, x in pairs)

    def map(
        self,
        inputs: Tensors,
        batched: Callable[[Tensor], Tensor],
        shared: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> tuple[Tensor, ...]:
        """Return inputs, those with leading dimensions and those that are shared changed."""
        pairs = zip(self.record.inputs, inputs, strict=True)
        return tuple((batched if one.batched else shared)(x) for one, x in pairs)

    @property
    def forward_mode(self) -> bool:
        """Whether there is a jvp; without one it raises."""
        return self.record.forward_mode and (self.rule is None or self.rule.linear)

    @property
    def in_dims(self) -> tuple[int | None, ...]:
        """The dimension of each input that `vmap` over the leading one maps."""
        return tuple(0 if one.batched else None for one in self.record.inputs)

    def draws(self, inputs: Tensors) -> int:
        """Return how many draws there are for each entry of the leading dimension."""
        x, dims = inputs[0], len(self.record.inputs[0].named)
        return x.shape[1 : x.ndim - dims].numel()

    def along(self, outputs: Tensors, source: int, to: int) -> tuple[Tensor, ...]:
        """Return outputs with the dimension of the classes moved, in those that have it."""
        classes = self.record.inputs[0].named[-1:]
        has = [names(dims)[-1:] == classes != [] for dims in self.record.outcome.outputs]
        return tuple(
            y.movedim(source, to) if yes else y for y, yes in zip(outputs, has, strict=False)
        )

    def assert_same(self, got: Tensors, expected: Tensors, about: str) -> None:
        """Assert that outputs are the same: bit by bit, unless soft."""
        (assert_close if self.soft else assert_bits)(got, expected, f"{self}: {about}")

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Return ordinary values, the same ones in every dtype up to rounding."""
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(self.device, dtype)

    def input(
        self, *batch: int, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> tuple[Tensor, ...]:
        """Return ordinary inputs of odd sizes, with leading dimensions `batch`."""
        named = dict.fromkeys(name for one in self.record.inputs for name in one.named)
        sizes = dict(zip(named, _SIZES, strict=False))
        lead = (*batch, 3) if self.record.inputs[0].named else (*batch, 3, 7)
        found = []
        for i, one in enumerate(self.record.inputs):
            x = self.normal(*shaped(one.dims, lead, sizes), dtype=dtype, seed=seed + 100 * i)
            found.append(x.abs() + 0.25 if one.positive else x)
        return tuple(found)

    def incoming(self, inputs: Tensors, seed: int = 1) -> Tensor:
        """Return an ordinary gradient to the value at `inputs`."""
        shape = self.record.shapes(*inputs)[0]
        return self.normal(*shape, dtype=inputs[0].dtype, seed=seed)

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return inputs of edge cases."""
        return tuple(x.to(self.device) for x in self.record.outcome.special(dtype))


def cases(device: str = "cpu") -> list[Case]:
    """Return every registered operator with every registered rule that fits it."""
    found = []
    for record in OPERATORS.values():
        rules = [rule.example for rule in record.rules()] if record.rule else [None]
        found += [Case(record, rule, device) for rule in rules]
    return found


Check = Callable[[Case], None]
CHECKS: dict[Check, Callable[[Case], bool]] = {}
"""Every check of a case, and which cases it is about."""


def check(applies: Callable[[Case], bool] = lambda _: True) -> Callable[[Check], Check]:
    """Add the decorated function to `CHECKS`."""

    def add(function: Check) -> Check:
        CHECKS[function] = applies
        return function

    return add


def applicable(case: Case) -> list[Check]:
    """Return the checks that are about `case`."""
    return [function for function, applies in CHECKS.items() if applies(case)]
