"""What operators of orders return."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ...core.outcomes import Outcome, Tensors, special_rows

MOST = 6
"""Of squares up to that size all assignments are looked at."""


class Ranks(Outcome):
    """The places 1 to n of a row's entries, 0 for one that is not allowed."""

    outputs = ("... N",)
    indicates = False

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (special_rows(dtype),)

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        y, absent = outputs[0], (mean == 0).sum(-1, keepdim=True)
        known = ~mean.isnan().any(-1)
        assert bool(y[~known].isnan().all()), f"{y[~known].tolist()} without an outcome"
        places = torch.arange(1, y.shape[-1] + 1, device=y.device)
        due = (places - absent).clamp(min=0).to(y.dtype)[known]
        same = y[known].sort(-1).values == due
        assert bool(same.all()), f"{y[known].tolist()}, not every rank once"


class Permutation(Outcome):
    """A permutation matrix."""

    outputs = ("... N N",)

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (special_rows(dtype),)

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        y = outputs[0]
        invalid = mean.isnan().flatten(-2).any(-1)
        assert bool(y[invalid].isnan().all()), f"{y[invalid].tolist()} without an outcome"
        given = y[~invalid]
        assert bool(((given == 0) | (given == 1)).all()), f"{given.tolist()}, not 0 and 1"
        for dim in (-1, -2):
            sums = given.double().sum(dim)
            assert bool((sums == 1).all()), f"sums along {dim} are {sums.tolist()}, not 1"


class Assignment(Permutation):
    """A permutation matrix that keeps the most of a square of scores."""

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        rows = special_rows(dtype)
        squares = [rows[i].expand(5, 5).clone() for i in range(len(rows))]
        for i, square in enumerate(squares):
            square[i % 5] = rows[2]
        low = torch.finfo(dtype).min
        allowed = torch.ones(5, 5).triu().bool().flip(-1)
        squares += [torch.where(allowed, 1.0, -torch.inf).to(dtype), torch.eye(5).to(dtype) * low]
        return (torch.stack(squares),)

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        super().check(outputs, inputs, mean)
        size = inputs[0].shape[-1]
        if size > MOST:
            return
        scores, y = (x.double().reshape(-1, size, size) for x in (inputs[0], outputs[0]))
        peak = torch.where(scores.isfinite(), scores, 0).abs().amax((-1, -2), keepdim=True)
        scores = scores / peak.clamp(min=torch.finfo(torch.float64).tiny)
        columns = torch.tensor([*itertools.permutations(range(size))], device=y.device)
        kept = scores[:, torch.arange(size, device=y.device), columns].sum(-1)
        most = torch.where(kept.isnan(), -torch.inf, kept).amax(-1)
        none = (scores.isnan() | scores.isposinf()).any((-1, -2)) | most.isneginf()
        assert torch.equal(y.isnan().any((-1, -2)), none), "an outcome where there is none, or none"
        ours = torch.where(y == 1, scores, 0).sum((-1, -2))
        less = ~none & (ours < most - 1e-9)
        assert not bool(less.any()), f"keeps {ours[less].tolist()} of {most[less].tolist()}"


class Reordered(Outcome):
    """The rows of a table in another order."""

    outputs = ("... N D",)
    indicates = False

    def special(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        scores = special_rows(dtype)
        rows, size = scores.shape
        values = torch.arange(rows * size * 3, dtype=torch.float64).reshape(rows, size, 3)
        return scores, (values % 97 - 40).to(dtype)

    def check(self, outputs: Tensors, inputs: Tensors, mean: Tensor) -> None:
        y, values = outputs[0], inputs[1]
        valid = ~mean.isnan().flatten(-2).any(-1)
        assert bool(y[~valid].isnan().all()), f"{y[~valid].tolist()} without an outcome"
        got, due = (x[valid].double().sort(-2).values for x in (y, values))
        assert torch.equal(got, due), f"{y[valid].tolist()}, not the values in another order"
