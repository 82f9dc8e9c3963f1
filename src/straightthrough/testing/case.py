"""What a check looks at: an operator with one rule, the inputs it gets, and how values compare."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import FLOATING
from ..core.noise import Noise
from ..core.precision import compute_dtype
from ..core.registry import OPERATORS, OperatorRecord
from ..core.rules import Rule

SEED = 20
"""The seed of every draw that a check makes, unless the check is about seeds."""

CLASSES = 5
"""Classes a row."""

DTYPES = FLOATING

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


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

    def __str__(self) -> str:
        mode = "soft " if self.soft else ""
        return f"{mode}{self.record.name}-{self.rule or 'default'}"

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of a call, those of the record and the rule."""
        chosen = {} if self.rule is None else {str(self.record.rule): self.rule}
        return {**self.record.arguments, **chosen}

    def __call__(self, x: Tensor, seed: object = SEED, **overrides: Any) -> Tensor:
        """Call the operator; a seed is passed only to one that samples."""
        drawn = {"seed": seed} if self.record.samples else {}
        return self.record.call(x, **{**self.options, **drawn, **overrides})

    def hard(self, x: Tensor) -> Tensor:
        """Return the specified value (of an operator that samples: the mean of its values)."""
        if self.rule is not None and self.rule.tau_forward != 1:
            most = torch.finfo(torch.float64).max
            x = torch.where(x.isinf(), x, (x.double() / self.rule.tau_forward).clamp(-most, most))
        return self.record.hard(x, **self.record.arguments)

    def gradient(self, x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
        """Return the specified gradient, in float64."""
        rule = self.rule or self.record.default
        noise = Noise(torch.tensor(SEED, device=x.device))
        return self.record.gradient(rule, x, y, grad, noise, **self.record.arguments)

    def pull(self, x: Tensor, grad: Tensor, **overrides: Any) -> tuple[Tensor, Tensor]:
        """Return the value at `x` and the gradient that `grad` gives there."""
        x = x.detach().requires_grad_()
        y = self(x, **overrides)
        assert y.requires_grad, f"{self}: the value of an input that requires grad does not"
        assert y.shape == grad.shape, f"{self}: {tuple(x.shape)} gave {tuple(y.shape)}"
        return y.detach(), torch.autograd.grad(y, x, grad)[0]

    def of_value(self, x: Tensor) -> Tensor:
        """Return a part of `x` that has the shape of the value at `x`."""
        return x[..., 0] if self.record.numbers else x

    def shown(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the value at `x`, the number of a class as its one-hot (NaN as a row of NaN)."""
        if not self.record.numbers:
            return y
        number = torch.arange(x.shape[-1], device=y.device)
        hot = (y.unsqueeze(-1) == number).to(y.dtype)
        return torch.where(y.isnan().unsqueeze(-1), math.nan, hot)

    def assert_same(self, got: Tensor, expected: Tensor, about: str) -> None:
        """Assert that two values of the operator are the same: bit by bit, unless soft."""
        (assert_close if self.soft else assert_bits)(got, expected, f"{self}: {about}")

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Return ordinary values, the same ones in every dtype up to rounding."""
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(self.device, dtype)

    def input(self, *batch: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Return an ordinary input of an odd length, with leading dimensions `batch`."""
        last = CLASSES if self.record.rows else 7
        return self.normal(*batch, 3, last, dtype=dtype, seed=seed)

    def special(self, dtype: torch.dtype) -> Tensor:
        """Return an input of edge cases: zeros, infinities, NaN, ties, extremes of the dtype."""
        limits = torch.finfo(dtype)
        large, tiny, least = limits.max, limits.tiny, limits.tiny * limits.eps
        inf, nan = math.inf, math.nan
        if not self.record.rows:
            values = [0.0, tiny, least, 0.25, 0.5, 1.0, 1.5, 2.5, 1e3, large, inf, nan]
            return torch.tensor([*values, *(-value for value in values)]).to(self.device, dtype)
        rows = [
            [0.0, -0.0, 0.0, -0.0, 0.0],
            [-0.0, 0.0, -1.0, 0.0, -2.0],
            [1.0, 3.0, 3.0, 2.0, 3.0],
            [large, large, -large, 0.0, 1.0],
            [-large, -large, -large, -large, -large],
            [tiny, least, 0.0, -least, tiny],
            [inf, 1.0, inf, 0.0, 2.0],
            [0.0, inf, 1.0, 2.0, 3.0],
            [-inf, 1.0, -inf, 0.0, -inf],
            [-inf, -inf, -inf, 4.0, -inf],
            [-inf, -inf, -inf, -inf, -inf],
            [0.0, 1.0, nan, 2.0, 3.0],
            [nan, nan, nan, nan, nan],
        ]
        return torch.tensor(rows, dtype=torch.float64).to(self.device, dtype)


def cases(device: str = "cpu") -> list[Case]:
    """Return every registered operator with every registered rule that fits it."""
    found = []
    for record in OPERATORS.values():
        rules = [rule.example for rule in record.rules()] if record.rule else [None]
        found += [Case(record, rule, device) for rule in rules]
    return found


def assert_bits(got: Tensor, expected: Tensor, about: object) -> None:
    """Assert the same dtype, device, shape and bits: -0.0 is not 0.0, NaN is NaN."""
    for name in ("dtype", "device", "shape"):
        one, other = getattr(got, name), getattr(expected, name)
        assert one == other, f"{about}: {name} is {one}, not {other}"
    bits = _BITS[got.element_size()]
    same = got.detach().view(bits) == expected.detach().view(bits)
    _assert_all(same | (got.isnan() & expected.isnan()), got, expected, about)


def assert_close(got: Tensor, expected: Tensor, about: object, scale: float = 1.0) -> None:
    """Assert equality up to the rounding of `got`'s dtype and of what it is computed in.

    The bound is one rounding of the result and 32 roundings of a computation whose terms are as
    large as the result or as `scale`. NaN equals NaN.
    """
    expected = expected.detach().double()
    narrow, wide = torch.finfo(got.dtype), torch.finfo(compute_dtype(got.dtype))
    size = expected.abs()
    bound = narrow.eps * size + 32 * wide.eps * (size + scale) + narrow.tiny
    assert got.shape == expected.shape, f"{about}: shape {got.shape}, not {expected.shape}"
    off = (got.detach().double() - expected).abs()
    same = (off <= bound) | (got == expected) | (got.isnan() & expected.isnan())
    _assert_all(same, got, expected, f"{about}, {got.dtype}")


def _assert_all(same: Tensor, got: Tensor, expected: Tensor, about: object) -> None:
    if bool(same.all()):
        return
    where = tuple(int(i) for i in same.logical_not().nonzero()[0])
    one, other = got[where].item(), expected[where].item()
    count = int(same.logical_not().sum())
    raise AssertionError(
        f"{about}: {count} of {same.numel()} wrong, first at {where}: got {one!r}, not {other!r}"
    )


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
