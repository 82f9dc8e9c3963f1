"""Codebook operators as modules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import ArgumentError, ShapeError, check_at_least, check_count
from ..core.precision import compute_dtype
from ..estimators import PairEstimator
from ..ops.codebook import codes, signs
from ..ops.codebook.api import through
from ..ops.codebook.arguments import check_vectors
from .base import EstimatorModule, OperatorModule
from .codebook import Codebook, Quantized, check_row_mask, commitment


class VectorQuantizer(EstimatorModule[PairEstimator]):
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
        self.codes = codes

    def forward(self, z: Tensor, *, mask: Tensor | None = None) -> Quantized:
        check_vectors(z)
        check_row_mask(z, mask)
        z = self.book.directed(z if mask is None else torch.where(mask.unsqueeze(-1), z, 0))
        q, index = self.book.select(z, mask)
        return Quantized(through(z, q, self.rule), index, self.book.loss(z, q, index))

    def decode(self, index: Tensor) -> Tensor:
        """Return the codewords of numbers of any shape, a NaN row for -1."""
        return self.book.decode(index)

    def update_codebook(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Apply what was collected, as `st.nn.Codebook` says; for `update="manual"`."""
        self.book.update_codebook(optimizer)


class ResidualVQ(EstimatorModule[PairEstimator]):
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
        options: those of `st.nn.Codebook`.

    Example:
        >>> quantizer = st.nn.ResidualVQ(3, 16, 4).eval()
        >>> q, index, loss = quantizer(torch.randn(2, 100, 4))
        >>> index.shape, torch.allclose(quantizer.decode(index), q)
        (torch.Size([2, 100, 3]), True)
    """

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
        check_count("stages", stages)
        if options.get("metric", "euclidean") != "euclidean":
            raise ArgumentError("a residual has a length: metric must be 'euclidean'")
        self.books = nn.ModuleList(Codebook(codes, width, **options) for _ in range(stages))
        self.codes, self.dropout = codes, dropout

    def forward(self, z: Tensor, *, mask: Tensor | None = None) -> Quantized:
        check_vectors(z)
        check_row_mask(z, mask)
        z = z if mask is None else torch.where(mask.unsqueeze(-1), z, 0)
        depth = self._depth(z)
        whole, loss = torch.zeros_like(z), z.new_zeros((), dtype=compute_dtype(z.dtype))
        numbers = []
        for stage, book in enumerate(self.books):
            assert isinstance(book, Codebook)
            part = mask
            if depth is not None:
                part = depth > stage if mask is None else mask & (depth > stage)
            left = z - whole.detach()
            q, index = book.select(left.detach(), part)
            loss = loss + book.loss(left, q, index)
            whole = whole + q
            numbers.append(index)
        return Quantized(through(z, whole, self.rule), torch.stack(numbers, -1), loss)

    def _depth(self, z: Tensor) -> Tensor | None:
        """Return how many stages each row goes through, the same of an example."""
        if not (self.dropout and self.training):
            return None
        shape = (len(z), *[1] * (z.ndim - 2)) if z.ndim > 1 else ()
        depth = torch.randint(1, len(self.books) + 1, shape, device=z.device)
        return depth.expand(z.shape[:-1])

    def decode(self, index: Tensor) -> Tensor:
        """Return the sum of the codewords of `(..., T)`; a stage of -1 adds nothing."""
        parts = []
        for book, number in zip(self.books, index.unbind(-1), strict=True):
            assert isinstance(book, Codebook)
            parts.append(torch.where((number < 0).unsqueeze(-1), 0, book.decode(number)))
        return torch.stack(parts).sum(0)

    def update_codebook(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Apply what was collected, as `st.nn.Codebook` says; for `update="manual"`."""
        _update(self.books, optimizer)


class GroupedVQ(EstimatorModule[PairEstimator]):
    """A codebook for each of G parts of a vector.

    `index` is `(..., G)`, and the loss the mean over the groups.

    Args:
        groups: G, which divides the width.
        codes: K of each.
        width: D of the whole.
        estimator: a `PairEstimator` or its shorthand.
        options: those of `st.nn.Codebook`.

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
        check_count("groups", groups)
        if width % groups:
            raise ShapeError(f"groups must divide the width {width}, got {groups}")
        self.books = nn.ModuleList(
            Codebook(codes, width // groups, **options) for _ in range(groups)
        )
        self.codes = codes

    def forward(self, z: Tensor, *, mask: Tensor | None = None) -> Quantized:
        check_vectors(z)
        check_row_mask(z, mask)
        z = z if mask is None else torch.where(mask.unsqueeze(-1), z, 0)
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
        pairs = zip(self.books, index.unbind(-1), strict=True)
        return torch.cat([book.decode(number) for book, number in pairs], -1)  # type: ignore[operator]  # of a ModuleList

    def update_codebook(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Apply what was collected, as `st.nn.Codebook` says; for `update="manual"`."""
        _update(self.books, optimizer)


def _update(books: nn.ModuleList, optimizer: torch.optim.Optimizer | None) -> None:
    for book in books:
        assert isinstance(book, Codebook)
        book.update_codebook(optimizer)


class FSQ(OperatorModule):
    """`st.fsq` as a module: `(code, index, 0)`; it learns nothing, and needs no loss.

    Args:
        levels: how many each of the D entries has.
        bound: `"tanh"` or `"sigmoid"`.
        symmetric: whether the levels lie evenly about 0.

    Example:
        >>> quantizer = st.nn.FSQ([8, 5, 5])
        >>> code, index, _ = quantizer(torch.randn(10, 3))
        >>> torch.equal(quantizer.decode(index), code)
        True
    """

    def __init__(
        self, levels: Sequence[int], *, bound: str = "tanh", symmetric: bool = False
    ) -> None:
        super().__init__()
        self.levels, self.bound, self.symmetric = tuple(levels), bound, symmetric
        self.codes = math.prod(self.levels)

    def forward(self, z: Tensor) -> Quantized:
        code, index = codes.fsq(z, self.levels, bound=self.bound, symmetric=self.symmetric)
        return Quantized(code, index, code.new_zeros(()))

    def decode(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the codes of numbers of any shape."""
        return codes.fsq_decode(index, self.levels, symmetric=self.symmetric, dtype=dtype)

    def extra_repr(self) -> str:
        return f"{list(self.levels)}, bound={self.bound!r}, symmetric={self.symmetric}"


class LFQ(OperatorModule):
    """`st.lfq` as a module, its loss `commitment` and `entropy (H(p) - diversity H(mean p))`.

    Args:
        bits: D.
        entropy: the weight of the entropies of `st.lfq_entropy`.
        diversity: that of the entropy of the mean among them.
        commitment: the weight of the mean of `(z - code)^2`.

    Example:
        >>> quantizer = st.nn.LFQ(8)
        >>> code, index, loss = quantizer(torch.randn(10, 8))
        >>> torch.equal(quantizer.decode(index), code)
        True
    """

    def __init__(
        self, bits: int, *, entropy: float = 0.1, diversity: float = 1.0, commitment: float = 0.25
    ) -> None:
        super().__init__()
        check_count("bits", bits)
        self.bits, self.codes = bits, 2**bits
        self.diversity = check_at_least("diversity", diversity, 0)
        self.entropy = check_at_least("entropy", entropy, 0)
        self.commitment = check_at_least("commitment", commitment, 0)

    def forward(self, z: Tensor, *, mask: Tensor | None = None) -> Quantized:
        check_vectors(z)
        check_row_mask(z, mask)
        if z.shape[-1] != self.bits:
            raise ShapeError(f"z must be (..., {self.bits}), got {tuple(z.shape)}")
        z = z if mask is None else torch.where(mask.unsqueeze(-1), z, 0)
        code, index = signs.lfq(z)
        if mask is not None:
            code = torch.where(mask.unsqueeze(-1), code, 0)
            index = torch.where(mask, index, -1)
        each, together = signs.lfq_entropy(z, mask=mask)
        loss = self.entropy * (each - self.diversity * together)
        return Quantized(code, index, loss + self.commitment * commitment(z, code, mask))

    def decode(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the codes of numbers of any shape."""
        return signs.lfq_decode(index, self.bits, dtype=dtype)

    def extra_repr(self) -> str:
        return f"{self.bits}, entropy={self.entropy}, diversity={self.diversity}"
