"""What every subset operator checks of its rows."""

from __future__ import annotations

from torch import Tensor

from ...core.errors import apply_mask, check_k, check_rows
from ...core.registry import check_not_rule


def subset_rows(
    name: str, x: Tensor, k: object, dim: int, mask: Tensor | None, rule: str = ""
) -> tuple[Tensor, int, int]:
    """Return the rows with their classes last and masked, k, and the dim they came from.

    Raises unless k is an int from 1 to the number of classes; `rule` is the keyword of the rule
    that comes after it, where there is one.
    """
    dim = check_rows(name, x, dim)
    if rule:
        check_not_rule("k", k, rule)
    count = check_k(k, x.shape[dim])
    rows = apply_mask(name, x, mask)
    return rows if dim == -1 else rows.movedim(dim, -1), count, dim
