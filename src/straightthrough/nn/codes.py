"""Quantizers without a codebook, which learn nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..core.errors import ShapeError, check_count, check_flag, check_positive
from ..ops.codebook import codes, signs
from ..ops.codebook.arguments import check_most, check_row_mask, check_vectors
from .base import OperatorModule
from .checked import Checked, Checks, check_weight
from .quantized import Quantized, commitment, unmasked


def _check_bound(_: str, bound: str) -> str:
    codes.check_bound(bound)
    return bound


class FSQ(Checked, OperatorModule):
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

    levels: tuple[int, ...]
    checks: ClassVar[Checks] = {
        "levels": lambda _, levels: codes.check_levels(levels, None),
        "bound": _check_bound,
        "symmetric": check_flag,
    }

    def __init__(
        self, levels: Sequence[int], *, bound: str = "tanh", symmetric: bool = False
    ) -> None:
        super().__init__()
        self.levels, self.bound, self.symmetric = levels, bound, symmetric  # type: ignore[assignment]  # a tuple by now

    @property
    def codes(self) -> int:
        """How many there are."""
        return math.prod(self.levels)

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


def _check_bits(name: str, bits: object) -> int:
    count = check_count(name, bits)
    check_most(2**count)
    return count


class LFQ(Checked, OperatorModule):
    """`st.lfq` as a module, its loss `commitment` and `entropy (H(p) - diversity H(mean p))`.

    Args:
        bits: D.
        entropy: the weight of the entropies of `st.lfq_entropy`.
        diversity: that of the entropy of the mean among them, taken bit by bit: bits that only go
            together count as if they were independent.
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

    checks: ClassVar[Checks] = {
        "bits": _check_bits,
        "entropy": check_weight,
        "diversity": check_weight,
        "commitment": check_weight,
        "inverse_temperature": check_positive,
    }

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
        self.bits, self.entropy, self.diversity = bits, entropy, diversity
        self.commitment, self.inverse_temperature = commitment, inverse_temperature

    @property
    def codes(self) -> int:
        """How many there are."""
        return 2**self.bits

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
        return (
            f"{self.bits}, entropy={self.entropy}, diversity={self.diversity}, "
            f"commitment={self.commitment}, inverse_temperature={self.inverse_temperature}"
        )


def _masked(code: Tensor, index: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return codes and numbers, 0 and -1 where the mask is False."""
    if mask is None:
        return code, index
    return torch.where(mask.unsqueeze(-1), code, 0), torch.where(mask, index, -1)
