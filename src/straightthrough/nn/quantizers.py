"""Quantizers whose codebooks learn: one, a chain, and a group."""

from __future__ import annotations

import copy
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import ArgumentError, DtypeError, ShapeError, check_count, check_flag
from ..core.noise import Noise, make_seed
from ..core.precision import compute_dtype
from ..estimators import PairEstimator
from ..ops.codebook.api import through
from ..ops.codebook.arguments import check_row_mask, check_vectors
from .base import EstimatorModule, detached
from .checked import Checks, check_fixed
from .codebook import Codebook
from .quantized import Quantized, unmasked

OPTIONS = (
    *("decay", "commitment", "revive", "frozen", "k_means"),
    *("learn", "update", "metric", "transform"),
)
"""What a codebook has, and what holds some has not."""


class OfCodebooks(EstimatorModule[PairEstimator]):
    """A module whose codebooks have options of their own, and no others in the place of these."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OPTIONS:
            where = "quantizer.book" if "book" in self._modules else "each of quantizer.books"
            raise ArgumentError(f"{name} is a codebook's, and of no effect here; set it on {where}")
        if name in ("codes", "width"):
            check_fixed(self, name, value)
        super().__setattr__(name, value)


class VectorQuantizer(OfCodebooks):
    """`st.vector_quantize` with a codebook that learns, starts at the data, and stays alive.

    `quantizer(z, mask=None)` returns `(quantized, index, loss)` for z `(..., D)`; where the mask is
    False the vector is 0 and the number -1. In `eval()` nothing is learned or counted.

    Statistics are in float32 whatever the dtype, and summed over all processes of
    `torch.distributed`, whose codebooks stay the same to the bit.

    Args:
        codes: K.
        width: D.
        estimator: a `PairEstimator` or its shorthand.
        options: those of `st.nn.Codebook`.

    Example:
        >>> quantizer = st.nn.VectorQuantizer(16, 4, revive=0.1)
        >>> q, index, loss = quantizer(torch.randn(2, 100, 4))
        >>> q.shape, index.shape, loss.shape
        (torch.Size([2, 100, 4]), torch.Size([2, 100]), torch.Size([]))
        >>> quantizer.eval().decode(index).shape
        torch.Size([2, 100, 4])
    """

    def __init__(
        self, codes: int, width: int, estimator: PairEstimator | str = "ste", **options: Any
    ) -> None:
        super().__init__(estimator, (PairEstimator,), {})
        self.book = Codebook(codes, width, **options)
        self.codes, self.width = codes, width

    def forward(self, z: Tensor, *, mask: Tensor | None = None) -> Quantized:
        z = self.book.directed(_vectors(z, mask, self.width))
        q, index = self.book.select(z, mask)
        return Quantized(through(z, q, self.rule), index, self.book.loss(z, q, index))

    def decode(self, index: Tensor) -> Tensor:
        """Return the codewords of numbers of any shape, a NaN row for -1."""
        return self.book.decode(index)

    def update_codebook(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Apply what was collected, as `st.nn.Codebook` says; for `update="manual"`."""
        self.book.update_codebook(optimizer)


class ResidualVQ(OfCodebooks):
    """Codes of what the codes before left over, with one rule round the whole chain.

    `quantized` is the sum of the stages' codewords, and `index` `(..., T)`. The gradient passes the
    rule once, so that `d quantized / d z` under `"ste"` is the identity at any depth; each stage
    adds its losses.

    Args:
        stages: T.
        codes: K of each.
        width: D.
        estimator: a `PairEstimator` or its shorthand.
        dropout: whether in training every example (of the first dimension) ends after a number of
            stages drawn from 1 to T; the numbers beyond are -1.
        options: those of `st.nn.Codebook`; each stage has a copy of a `transform`.

    Example:
        >>> quantizer = st.nn.ResidualVQ(3, 16, 4).eval()
        >>> q, index, loss = quantizer(torch.randn(2, 100, 4))
        >>> index.shape, torch.equal(quantizer.decode(index), q)
        (torch.Size([2, 100, 3]), True)
    """

    dropout: bool
    numbers: ClassVar[Checks] = {"dropout": check_flag}

    def __init__(
        self,
        stages: int,
        codes: int,
        width: int,
        estimator: PairEstimator | str = "ste",
        *,
        dropout: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(estimator, (PairEstimator,), {})
        stages = check_count("stages", stages)
        if options.get("metric", "euclidean") != "euclidean":
            raise ArgumentError("a residual has a length: metric must be 'euclidean'")
        self.books = _codebooks(stages, codes, width, options)
        self.codes, self.width = codes, width
        self.dropout = dropout

    def forward(self, z: Tensor, *, mask: Tensor | None = None) -> Quantized:
        z = _vectors(z, mask, self.width)
        depth = self._depth(z)
        whole, loss = torch.zeros_like(z), z.new_zeros((), dtype=compute_dtype(z.dtype))
        numbers = []
        for stage, book in enumerate(self.books):
            assert isinstance(book, Codebook)
            part = mask
            if depth is not None:
                part = depth > stage if mask is None else mask & (depth > stage)
            left = z - detached(whole)
            q, index = book.select(detached(left), part)
            loss = loss + book.loss(left, q, index)
            whole = whole + q
            numbers.append(index)
        return Quantized(through(z, whole, self.rule), torch.stack(numbers, -1), loss)

    def _depth(self, z: Tensor) -> Tensor | None:
        """Return how many stages each row goes through, the same of an example."""
        if not (self.dropout and self.training):
            return None
        seed, place = make_seed(None, None, z)
        examples = z.shape[0] if z.ndim > 1 else 1  # an export would keep `len(z)` as it is
        shape = (examples, *[1] * (z.ndim - 2)) if z.ndim > 1 else ()
        share = Noise(seed, *place).rows(examples)  # over 2^53
        depth = 1 + (share * len(self.books) >> 53)
        return depth.reshape(shape).expand(z.shape[:-1])

    def decode(self, index: Tensor) -> Tensor:
        """Return the sum of the codewords of `(..., T)`; a stage of -1 adds nothing."""
        parts = []
        for book, number in zip(self.books, _numbers(index, len(self.books)), strict=True):
            assert isinstance(book, Codebook)
            parts.append(torch.where((number < 0).unsqueeze(-1), 0, book.decode(number)))
        return reduce(torch.add, parts)  # in the order of forward, by which it rounds

    def update_codebook(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Apply what was collected, as `st.nn.Codebook` says; for `update="manual"`."""
        _update(self.books, optimizer)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dropout={self.dropout}"


class GroupedVQ(OfCodebooks):
    """A codebook for each of G parts of a vector.

    `index` is `(..., G)`, and the loss the mean over the groups.

    Args:
        groups: G, which divides the width.
        codes: K of each.
        width: D of the whole.
        estimator: a `PairEstimator` or its shorthand.
        options: those of `st.nn.Codebook`; each group has a copy of a `transform`.

    Example:
        >>> quantizer = st.nn.GroupedVQ(2, 16, 8)
        >>> q, index, loss = quantizer(torch.randn(5, 8))
        >>> q.shape, index.shape
        (torch.Size([5, 8]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        groups: int,
        codes: int,
        width: int,
        estimator: PairEstimator | str = "ste",
        **options: Any,
    ) -> None:
        super().__init__(estimator, (PairEstimator,), {})
        groups, width = check_count("groups", groups), check_count("width", width)
        if width % groups:
            raise ShapeError(f"groups must divide the width {width}, got {groups}")
        self.books = _codebooks(groups, codes, width // groups, options)
        self.codes, self.width = codes, width

    def forward(self, z: Tensor, *, mask: Tensor | None = None) -> Quantized:
        z = _vectors(z, mask, self.width)
        found = []
        for book, part in zip(self.books, z.chunk(len(self.books), -1), strict=True):
            assert isinstance(book, Codebook)
            part = book.directed(part)
            q, index = book.select(part, mask)
            found.append((through(part, q, self.rule), index, book.loss(part, q, index)))
        quantized, numbers, losses = zip(*found, strict=True)
        loss = torch.stack(losses).mean()
        return Quantized(torch.cat(quantized, -1), torch.stack(numbers, -1), loss)

    def decode(self, index: Tensor) -> Tensor:
        """Return the codewords of `(..., G)` side by side."""
        pairs = zip(self.books, _numbers(index, len(self.books)), strict=True)
        return torch.cat([book.decode(number) for book, number in pairs], -1)  # type: ignore[operator]  # of a ModuleList

    def update_codebook(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Apply what was collected, as `st.nn.Codebook` says; for `update="manual"`."""
        _update(self.books, optimizer)


def _vectors(z: Tensor, mask: Tensor | None, width: int) -> Tensor:
    """Return vectors that can be quantized, 0 where the mask is False."""
    check_vectors(z)
    if z.shape[-1] != width:
        raise ShapeError(
            f"z must be (..., {width}) for a width of {width}, got {tuple(z.shape)}; "
            f"channels that are not last come there by z.movedim(1, -1)"
        )
    check_row_mask(z, mask)
    return unmasked(z, mask)


def _numbers(index: Tensor, books: int) -> tuple[Tensor, ...]:
    """Return the numbers of each codebook."""
    if not isinstance(index, Tensor):
        kind = type(index).__name__
        raise DtypeError(f"index must be an int64 tensor, got {kind}; use torch.as_tensor(index)")
    if index.ndim == 0 or index.shape[-1] != books:
        raise ShapeError(
            f"index must be (..., {books}), a number for each codebook, got {tuple(index.shape)}"
        )
    return index.unbind(-1)


def _codebooks(count: int, codes: int, width: int, options: dict[str, Any]) -> nn.ModuleList:
    return nn.ModuleList(Codebook(codes, width, **copy.deepcopy(options)) for _ in range(count))


def _update(books: nn.ModuleList, optimizer: torch.optim.Optimizer | None) -> None:
    for book in books:
        assert isinstance(book, Codebook)
        book.update_codebook(optimizer)
