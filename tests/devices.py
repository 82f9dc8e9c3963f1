"""What can be seen of other devices on the CPU: what an operator asks of one, and how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from straightthrough.core import kernels, noise, precision
from straightthrough.ops.codebook import search

FREE = {"_unsafe_view", "alias", "detach", "empty", "empty_like", "lift_fresh", "new_empty"}
"""Operators that launch nothing, beside the views."""

NOT_DETERMINISTIC = {"cumsum", "cumprod", "histc", "kthvalue", "put", "put_", "bincount", "median"}
"""What `torch.use_deterministic_algorithms` refuses of floats on CUDA, of what one might use."""


WAITS = {"_local_scalar_dense", "nonzero"}
"""What waits for another device than the CPU, beside copies from one to another."""


class Device(TorchDispatchMode):
    """A device that counts its launches and refuses to be waited for.

    Args:
        float64: whether it has float64.
    """

    def __init__(self, float64: bool = True) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        self.float64 = float64

    @property
    def launches(self) -> int:
        return self.launched.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is search.nearest_index:  # what it launches is inside
            with self:
                return search._nearest(*args)
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        if not func.is_view and name not in FREE:
            self.launched[name] += 1
        given = [x for x in (*args, result) if isinstance(x, Tensor)]
        floating = any(x.is_floating_point() for x in given)
        assert not (floating and name in NOT_DETERMINISTIC), f"{name} of floats"
        if any(not x.is_cpu for x in given):
            assert name not in WAITS, f"{name} waits for the device"
            copy = name in ("_to_copy", "copy_") and len({x.device for x in given}) > 1
            assert not copy, f"{name} from a device to another"
        if not self.float64:
            assert all(x.dtype != torch.float64 for x in given), f"{name} in float64"
        return result


@contextmanager
def without_float64() -> Iterator[Device]:
    """Take the CPU for a device that has neither kernels nor float64, nor a cache worth blocks."""
    with (
        kernels.disabled(),
        mock.patch.object(precision, "WITHOUT_FLOAT64", {"cpu"}),
        mock.patch.object(noise, "BLOCK", {}),
        Device(float64=False) as device,
    ):
        yield device
