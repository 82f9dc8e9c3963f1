"""Triton's interpreter as a test wants it: what it launches is counted, what it reads is checked.

The kernels for GPUs run there on CPU tensors, in a process of their own, as Triton asks at its
import whether to interpret:

    STRAIGHTTHROUGH_KERNELS=interpreter TRITON_INTERPRET=1 pytest $(python tests/interpreted.py)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from torch import Tensor

from straightthrough.core import kernels

ENVIRONMENT = {
    kernels.VARIABLE: kernels.INTERPRETER,
    "TRITON_INTERPRET": "1",
    "OMP_NUM_THREADS": "1",
}
FILES = (
    "tests/core/native",
    "tests/core/test_triton.py",
    "tests/core/kernels/test_agreement.py",
    "tests/core/kernels/test_counts.py",
    "tests/ops/bernoulli/test_triton.py",
    "tests/ops/categorical/test_triton.py",
    "tests/ops/categorical/test_triton_lookup.py",
    "tests/ops/codebook/test_triton.py",
    "tests/ops/counts/test_triton.py",
    "tests/estimators/test_triton.py",
    "tests/ops/pointwise/test_triton.py",
    "tests/ops/quantize/test_triton.py",
    "tests/ops/subset/test_triton.py",
    "tests/relaxations/test_triton.py",
)
"""Tests of what the interpreter runs."""


def extent(x: Tensor) -> tuple[int, int]:
    """Return the addresses from the first element of a tensor to the end of the last."""
    if x.numel() == 0:
        return x.data_ptr(), x.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round float32 to the nearest bfloat16, of two as near to the even one: their bits.

    So do GPUs (tests/benchmarks/test_gpu.py), where Triton's interpreter leaves digits out.
    """
    bits = x.view(np.uint32)
    nearest = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return np.where(np.isnan(x), 0x7FC0, nearest).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Widen bfloat16, given by its bits: the interpreter makes others of the smallest numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Refuse every access outside of the tensors of a launch; yield the names of the launches.

    What is stored in bfloat16 is rounded as on a GPU.

    Tiles of elements are large: the interpreter's time is by the program.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    from straightthrough.core.native import elements

    launches: list[str] = []
    extents: list[tuple[int, int]] = []
    executor, builder = interpreter.GridExecutor, interpreter.InterpreterBuilder
    launch, load, store = executor.__call__, builder.create_masked_load, builder.create_masked_store
    cast, dot, add = builder.cast_impl, builder.create_dot, builder.create_atomic_rmw
    bfloat16, handle = tl.bfloat16, interpreter.TensorHandle

    def launched(self: Any, *args: Any, **kwargs: Any) -> None:
        launches.append(self.fn.__name__)
        extents[:] = [extent(x) for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        launch(self, *args, **kwargs)

    def check(pointers: Any, mask: Any) -> None:
        first, size = pointers.data[mask.data], pointers.get_element_ty().primitive_bitwidth // 8
        inside = np.zeros(first.shape, bool)
        for begin, end in extents:
            inside |= (first >= begin) & (first + size <= end)
        assert inside.all(), f"{launches[-1]} reads or writes outside of its tensors"

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def checked_add(self: Any, kind: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return add(self, kind, pointers, value, mask, *rest)

    def converted(self: Any, x: Any, dtype: Any) -> Any:
        to, of = dtype.scalar, x.dtype.scalar
        if bfloat16 not in (to, of) or to == of:
            return cast(self, x, dtype)
        assert tl.float32 in (to, of), "only float32 is rounded to bfloat16, or read from it"
        change = to_bfloat16 if to == bfloat16 else from_bfloat16
        return handle(change(x.data), to)

    def multiplied(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        if a.dtype.scalar == bfloat16:
            a, b = (handle(from_bfloat16(x.data), tl.float32) for x in (a, b))
        return dot(self, a, b, *rest)

    with (
        mock.patch.object(elements, "ELEMENTS", 2**15),
        mock.patch.object(builder, "cast_impl", converted),
        mock.patch.object(builder, "create_dot", multiplied),
        mock.patch.object(builder, "create_atomic_rmw", checked_add),
        mock.patch.object(executor, "__call__", launched),
        mock.patch.object(builder, "create_masked_load", checked_load),
        mock.patch.object(builder, "create_masked_store", checked_store),
    ):
        yield launches


if __name__ == "__main__":
    print(*FILES)
