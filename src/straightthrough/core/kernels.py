"""Compiled kernels: which library serves, and the operators that it implements.

A kernel is a `torch.library` operator: its schema and its reference stand here and in
`reference.py`, its CPU implementation in the room's `cpu.cpp`. The reference runs on other
devices, in compiled code (but for a loop), inside functorch transforms, and where gradients are
recorded.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

VARIABLE = "STRAIGHTTHROUGH_KERNELS"
LEVELS = ("avx512", "avx2", "baseline")
FOLDER = Path(__file__).parent.parent / "_kernels"

_library = torch.library.Library("straightthrough", "FRAGMENT")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(schema: str, loop: int | None = None) -> Callable[[_Function], _Function]:
    """Make the decorated reference an operator of `schema`, served by its kernel where it can be.

    The first argument is the tensor whose device and dtype count. A kernel takes half precision as
    it is and tensors of any strides.

    Args:
        schema: the arguments and the result, as `torch.library` writes them.
        loop: the place of the argument that counts the turns of a loop in the reference, where
            there is one. Compiled code calls the operator whole, instead of tracing each turn.
    """

    def register(reference: _Function) -> _Function:
        name = reference.__name__
        compiled = define(name, schema, reference)
        if loop is not None:
            torch.library.register_fake(f"straightthrough::{name}", _like_first, lib=_library)

        @functools.wraps(reference)
        def call(x: Tensor, *rest: Any) -> Any:
            whole = loop is not None and rest[loop - 1] > 1 and _traced_backward()
            return compiled(x, *rest) if whole or serves(x) else reference(x, *rest)

        return call  # type: ignore[return-value]  # the same signature as the reference

    return register


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _traced_backward() -> bool:
    return (
        torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
    )


def define(name: str, schema: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """Define the operator `straightthrough::name`; a loaded library implements it on the CPU."""
    _library.define(name + schema)
    _library.impl(name, reference, "CompositeExplicitAutograd")
    overload: Callable[..., Any] = getattr(torch.ops.straightthrough, name).default
    return overload


def serves(x: Tensor, grad: Tensor | None = None) -> bool:
    """Whether kernels serve a call on `x`, and on a gradient of its dtype, here and now."""
    return (
        level is not None
        and x.is_cpu
        and (grad is None or grad.dtype == x.dtype)
        and not torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
        and not torch.compiler.is_compiling()
    )


@contextmanager
def disabled() -> Iterator[None]:
    """Let the reference serve every call inside the context."""
    global level
    serving, level = level, None
    try:
        yield
    finally:
        level = serving


def _load() -> tuple[str | None, str]:
    """Load the best library that was built and that the machine can run; say which and why."""
    asked = os.environ.get(VARIABLE, "")
    if asked == "off":
        return None, f"{VARIABLE}=off"
    if asked and asked not in LEVELS:
        return None, f"{VARIABLE}={asked} is none of off, {', '.join(LEVELS)}"
    if not FOLDER.exists():
        return None, "not built: there was no C++ compiler, or no torch, at install"
    capability = torch.backends.cpu.get_cpu_capability()
    best = {"AVX512": 0, "AVX2": 1}.get(capability, 2)
    for name in [asked] if asked else LEVELS[best:]:
        library = FOLDER / f"{name}.so"
        if LEVELS.index(name) >= best and library.exists():
            torch.ops.load_library(library)
            return name, f"the machine has {capability}"
    return None, f"{asked or 'no library'} cannot run on a machine with {capability}"


level, reason = _load()
