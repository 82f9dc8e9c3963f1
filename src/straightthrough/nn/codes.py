"""Quantizers without a codebook, which learn nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import ShapeError, check_at_least, check_count, check_flag, check_positive
from ..ops.codebook import codes, signs
from ..ops.codebook.arguments import check_most, check_row_mask, check_vectors
from .base import OperatorModule
from .codebook import Quantized, commitment, unmasked


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
        codes.check_bound(bound)
        self.levels = codes.check_levels(levels, None)
        self.bound, self.symmetric = bound, check_flag("symmetric", symmetric)
        self.codes = math.prod(self.levels)

    def forward(self, z: Tensor, *, mask: Tensor | None = None) -> Quantized:
        check_vectors(z)
        check_row_mask(z, mask)
        code, index = codes.fsq(
            unmasked(z, mask), self.levels, bound=self.bound, symmetric=self.symmetric
        )
        return Quantized(*_masked(code, index, mask), code.new_zeros(()))

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
        inverse_temperature: T of the entropies, > 0.

    A row that is not finite counts in no loss, and the loss of no row is 0.

    All three are weighed against the loss of the task. Their defaults are those of the field's
    package, but T is 100 there; beside a mean of squares over pixels they outweigh it, and the
    study `vqvae` has 0.003 for the entropies and as much for the commitment.

    Example:
        >>> quantizer = st.nn.LFQ(8)
        >>> code, index, loss = quantizer(torch.randn(10, 8))
        >>> torch.equal(quantizer.decode(index), code)
        True
    """

    def __init__(
        self,
        bits: int,
        *,
        entropy: float = 0.1,
        diversity: float = 1.0,
        commitment: float = 0.0,
        inverse_temperature: float = 1.0,
    ) -> None:
        super().__init__()
        bits = check_count("bits", bits)
        check_most(2**bits)
        self.bits, self.codes = bits, 2**bits
        self.diversity = check_at_least("diversity", diversity, 0)
        self.entropy = check_at_least("entropy", entropy, 0)
        self.commitment = check_at_least("commitment", commitment, 0)
        self.inverse_temperature = check_positive("inverse_temperature", inverse_temperature)

    def forward(self, z: Tensor, *, mask: Tensor | None = None) -> Quantized:
        check_vectors(z)
        check_row_mask(z, mask)
        if z.shape[-1] != self.bits:
            raise ShapeError(f"z must be (..., {self.bits}), got {tuple(z.shape)}")
        z = unmasked(z, mask)
        code, index = signs.lfq(z)
        code, index = _masked(code, index, mask)
        counted = z.isfinite().all(-1)
        counted = counted if mask is None else counted & mask
        each, together = signs.lfq_entropy(
            z, inverse_temperature=self.inverse_temperature, mask=counted
        )
        loss = self.entropy * (each - self.diversity * together)
        if self.commitment:
            loss = loss + self.commitment * commitment(z, code, counted)
        return Quantized(code, index, torch.where(counted.any(), loss, 0))

    def decode(self, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the codes of numbers of any shape."""
        return signs.lfq_decode(index, self.bits, dtype=dtype)

    def extra_repr(self) -> str:
        return f"{self.bits}, entropy={self.entropy}, diversity={self.diversity}"


def _masked(code: Tensor, index: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return codes and numbers, 0 and -1 where the mask is False."""
    if mask is None:
        return code, index
    return torch.where(mask.unsqueeze(-1), code, 0), torch.where(mask, index, -1)
