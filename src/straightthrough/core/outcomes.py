"""What an operator's value is: an object of a few lines, with what holds of all values of its kind.

It knows the shape of what comes out, inputs of edge cases, what a value must be, and of which
statistic of the value the expected value is the mean.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Outcome(ABC):
    """What an operator's value is.

    Attributes:
        outputs: the dimensions of what is returned, as those of an `Input`: of the value, and of an
            int64 index where there is one.
        everywhere: whether every input has an outcome; else the value is NaN where there is none
            (an index -1), and `st.strict()` raises.
        indicates: whether the statistic is 0 and 1, so that its mean says how often each comes.
    """

    outputs: ClassVar[tuple[str, ...]] = ("...",)
    everywhere: ClassVar[bool] = False
    indicates: ClassVar[bool] = True

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return inputs of edge cases: zeros, infinities, NaN, ties, extremes of the dtype."""
        return (special_elements(dtype),)

    def statistic(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        """Return what the expected value of an operator that samples is the mean of."""
        return outputs[0]

    @abstractmethod
    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        """Raise an `AssertionError` unless the outputs are some that these inputs can have.

        `mean` is that of the statistic, NaN where there is no outcome.
        """


class Elementwise(Outcome):
    """A number an element, the same function of each."""

    everywhere = True
    indicates = False

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        """Nothing holds of it but its specification."""


class GridValue(Outcome):
    """A value of a grid an element, laid by a scale."""

    indicates = False

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return special_elements(dtype), torch.tensor(0.5, dtype=dtype)

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        got, mean = _with_outcome(outputs[0], mean)
        assert not bool(got.isnan().any()), "NaN where there is an outcome"


class Neighbour(Outcome):
    """One of the two whole numbers beside it, an element.

    Its statistic is 1 for the one above, else 0.
    """

    everywhere = True

    def statistic(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        return outputs[0].double() - inputs[0].double().floor()

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        _assert_indicators(self.statistic(outputs, inputs), mean)


class Binary(Outcome):
    """0 or 1 an element."""

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        _assert_indicators(outputs[0], mean)


class Count(Outcome):
    """A count 0, 1, 2, ... an element."""

    indicates = False

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        got, mean = _with_outcome(outputs[0], mean)
        whole = got.isfinite() & (got >= 0) & (got == got.floor())
        assert bool(whole.all()), f"{got.tolist()}, not whole numbers from 0 on"
        _assert_none((mean == 0) & (got != 0))


class OneHot(Outcome):
    """The one-hot of a class."""

    outputs = ("... C",)

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (special_rows(dtype),)

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        _assert_indicators(outputs[0], mean)
        _assert_sums(outputs[0], mean, torch.ones_like(mean[..., 0]))


class KHot(Outcome):
    """The k-hot of some classes."""

    outputs = ("... C",)

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (special_rows(dtype),)

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        _assert_indicators(outputs[0], mean)
        _assert_sums(outputs[0], mean, mean.sum(-1).round())


class ClassNumber(Outcome):
    """The number of a class.

    Its statistic is the one-hot.
    """

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (special_rows(dtype),)

    def statistic(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        y = outputs[0].unsqueeze(-1)
        number = torch.arange(inputs[0].shape[-1], device=y.device)
        return torch.where(y.isnan(), math.nan, (y == number).to(y.dtype))

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        hot = self.statistic(outputs, inputs)
        _assert_indicators(hot, mean)
        _assert_sums(hot, mean, torch.ones_like(mean[..., 0]))


class TableRow(Outcome):
    """The row of a table that belongs to a class.

    Its statistic is 1 at the rows that equal it, else 0.
    """

    outputs = ("... D",)

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        logits = special_rows(dtype)
        table = [[-0.0, 1.0, -3.0], [0.5, 1.0, -3.0], [2.0, -0.0, 1.5], [1.0] * 3, [0.0, 7.0, 0.0]]
        return logits, torch.tensor(table, dtype=dtype)

    def statistic(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        y, table = outputs[0].unsqueeze(-2), inputs[1]
        same = (y == table) | (y.isnan() & table.isnan())
        return torch.where(y.isnan().all(-1), math.nan, same.all(-1).to(y.dtype))

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        y, invalid = outputs[0], mean.isnan().all(-1)
        assert bool(y[invalid].isnan().all()), f"{y[invalid].tolist()} without an outcome"
        same, mean = self.statistic(outputs, inputs)[~invalid] == 1, mean[~invalid]
        assert bool(same.any(-1).all()), f"{y[~invalid].tolist()}, not all rows of the table"
        _assert_none(~(same & (mean > 0)).any(-1))


class Codeword(Outcome):
    """A codeword and its number.

    Its statistic is the number's one-hot.
    """

    outputs = ("... D", "...")

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        codebook = [[0.0] * 5, [1.0, 3.0, 3.0, 2.0, 3.0], [-0.0, 0.5, -1.0, 0.5, -2.0], [1e3] * 5]
        return special_rows(dtype), torch.tensor(codebook, dtype=dtype)

    def statistic(self, outputs: Tensors, inputs: Tensors) -> Tensor:
        y, number = outputs[0], outputs[1].unsqueeze(-1)
        hot = number == torch.arange(inputs[1].shape[0], device=number.device)
        return torch.where(number < 0, math.nan, hot.to(y.dtype))

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        (y, number), codebook = outputs, inputs[1]
        hot = self.statistic(outputs, inputs)
        _assert_indicators(hot, mean)
        _assert_sums(hot, mean, torch.ones_like(mean[..., 0]))
        due = torch.where((number < 0).unsqueeze(-1), math.nan, codebook[number.clamp(min=0)])
        same = (y == due) | (y.isnan() & due.isnan())
        assert bool(same.all()), f"{y.tolist()}, not the codewords {number.tolist()}"


class Code(Outcome):
    """A code of a few values an entry, and its number."""

    outputs = ("... D", "...")
    indicates = False

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (special_rows(dtype),)

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        code, number = outputs
        assert bool((code.isnan().all(-1) == (number < 0)).all()), "NaN beside a number"
        assert bool((code.isnan() | (code.abs() <= 1)).all()), f"{code.tolist()}, beyond -1 to 1"


class Row(Outcome):
    """A vector a row, the same function of each."""

    outputs = ("... D",)
    everywhere = True
    indicates = False

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        z = special_rows(dtype)
        others = torch.linspace(-2, 2, z.numel(), dtype=torch.float64).reshape(z.shape).round()
        opposite, equal, zero = -z[1], z[2], torch.zeros_like(z[3])
        return z, torch.stack([others[0].to(dtype), opposite, equal, zero, *others[4:].to(dtype)])

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        """Nothing holds of it but its specification."""


def special_elements(dtype: torch.dtype) -> Tensor:
    """Return one dimension of edge cases for an operator that works on elements."""
    limits = torch.finfo(dtype)
    large, tiny, least = limits.max, limits.tiny, limits.tiny * limits.eps
    values = [0.0, tiny, least, 0.25, 0.5, 1.0, 1.5, 2.5, 1e3, large, math.inf, math.nan]
    signed = [*values, *(-value for value in values)]
    return torch.tensor(signed, dtype=torch.float64).to(dtype)


def special_rows(dtype: torch.dtype) -> Tensor:
    """Return rows of five that are edge cases for an operator that works on rows."""
    limits = torch.finfo(dtype)
    large, tiny, least = limits.max, limits.tiny, limits.tiny * limits.eps
    inf, nan = math.inf, math.nan
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
    return torch.tensor(rows, dtype=torch.float64).to(dtype)


def _with_outcome(got: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return what has an outcome; assert that the rest is NaN."""
    valid = ~mean.isnan()
    assert bool(got[~valid].isnan().all()), f"{got[~valid].tolist()} without an outcome"
    return got[valid], mean[valid]


def _assert_indicators(got: Tensor, mean: Tensor) -> None:
    got, mean = _with_outcome(got, mean)
    assert bool(((got == 0) | (got == 1)).all()), f"{got.tolist()}, not 0 and 1"
    _assert_none(((mean == 0) & (got != 0)) | ((mean == 1) & (got != 1)))


def _assert_sums(hot: Tensor, mean: Tensor, due: Tensor) -> None:
    valid = ~mean.isnan().any(-1)
    sums = hot.double().sum(-1)[valid]
    assert bool((sums == due[valid]).all()), (
        f"rows sum to {sums.tolist()}, not {due[valid].tolist()}"
    )


def _assert_none(impossible: Tensor) -> None:
    assert not bool(impossible.any()), "an outcome of probability 0"
