"""How values compare: bit by bit, or up to the rounding of what they are computed in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..core.precision import compute_dtype

Some = Tensor | Sequence[Tensor]

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def assert_bits(got: Some, expected: Some, about: object) -> None:
    """Assert the same dtype, device, shape and bits: -0.0 is not 0.0, NaN is NaN."""
    for mine, theirs, which in _pairs(got, expected, about):
        for name in ("dtype", "device", "shape"):
            one, other = getattr(mine, name), getattr(theirs, name)
            assert one == other, f"{which}: {name} is {one}, not {other}"
        bits = _BITS[mine.element_size()]
        same = mine.detach().view(bits) == theirs.detach().view(bits)
        _assert_all(same | (mine.isnan() & theirs.isnan()), mine, theirs, which)


def assert_close(got: Some, expected: Some, about: object, scale: float = 1.0) -> None:
    """Assert equality up to the rounding of `got`'s dtype and of what it is computed in.

    The bound is one rounding of the result and 32 roundings of a computation whose terms are as
    large as the result or as `scale`. NaN equals NaN.
    """
    for mine, theirs, which in _pairs(got, expected, about):
        due = theirs.detach().double()
        narrow, wide = torch.finfo(mine.dtype), torch.finfo(compute_dtype(mine.dtype))
        size = due.abs()
        bound = narrow.eps * size + 32 * wide.eps * (size + scale) + narrow.tiny
        assert mine.shape == due.shape, f"{which}: shape {mine.shape}, not {due.shape}"
        off = (mine.detach().double() - due).abs()
        same = (off <= bound) | (mine == due) | (mine.isnan() & due.isnan())
        _assert_all(same, mine, due, f"{which}, {mine.dtype}")


def _pairs(got: Some, expected: Some, about: object) -> Iterator[tuple[Tensor, Tensor, object]]:
    """Yield each tensor with the one that it is to be, and what to call it."""
    if isinstance(got, Tensor) and isinstance(expected, Tensor):
        yield got, expected, about
        return
    for i, (one, other) in enumerate(zip(got, expected, strict=True), 1):
        yield one, other, about if len(got) == 1 else f"{about} ({i} of {len(got)})"


def _assert_all(same: Tensor, got: Tensor, expected: Tensor, about: object) -> None:
    if bool(same.all()):
        return
    where = tuple(int(i) for i in same.logical_not().nonzero()[0])
    one, other = got[where].item(), expected[where].item()
    count = int(same.logical_not().sum())
    raise AssertionError(
        f"{about}: {count} of {same.numel()} wrong, first at {where}: got {one!r}, not {other!r}"
    )
