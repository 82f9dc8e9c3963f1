"""Compiled kernels: which library serves, and the operators that it implements.

A kernel is a `torch.library` operator: its schema and its reference stand here and in
`reference.py`, its CPU implementation in the room's `cpu.cpp`. The reference runs on other
devices, in compiled code (but for a loop), inside functorch transforms, and where gradients are
recorded.
"""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active, is_grad_enabled
from torch.compiler import is_compiling

VARIABLE = "STRAIGHTTHROUGH_KERNELS"
FOLDER = Path(__file__).parent.parent / "_kernels"
LEVELS = (
    ("neon",)
    if platform.machine().lower() in ("aarch64", "arm64")
    else ("avx512", "avx2", "baseline")
)
"""Instruction sets that libraries are built for, the best first."""

NEEDS = {"avx512": ("AVX512",), "avx2": ("AVX512", "AVX2")}
"""What torch may call a machine that runs a level; the other levels run on all."""

ACTIVE = "active"

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
        traced = define(name, schema, reference)
        native = traced._op  # the same without a call of Python's
        if loop is not None:
            torch.library.register_fake(f"straightthrough::{name}", _like_first, lib=_library)

        @functools.wraps(reference)
        def call(x: Tensor, *rest: Any, **named: Any) -> Any:
            if serves(x):
                return native(x, *rest, **named)
            if loop is not None and rest[loop - 1] > 1 and _traced_backward():
                return traced(x.contiguous(), *rest, **named)  # as the fake result is
            return reference(x, *rest, **named)

        return call  # type: ignore[return-value]  # the same signature as the reference

    return register


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _traced_backward() -> bool:
    return is_compiling() and not is_grad_enabled() and not _are_functorch_transforms_active()


def define(name: str, schema: str, reference: Callable[..., Any]) -> torch._ops.OpOverload:
    """Define the operator `straightthrough::name`; a loaded library implements it on the CPU.

    What moves from step to step makes nothing compile anew: the offset is symbolic, and the
    overload `numbers` takes 0-d float64 tensors on the CPU in the place of floats.
    """
    schema = schema.replace("int offset", "SymInt offset")
    _library.define(name + schema)
    _library.impl(name, reference, "CompositeExplicitAutograd")
    if "float " in schema:
        _library.define(f"{name}.numbers" + schema.replace("float ", "Tensor "))
        _library.impl(f"{name}.numbers", reference, "CompositeExplicitAutograd")
    overload: torch._ops.OpOverload = getattr(torch.ops.straightthrough, name).default
    return overload


def serves(x: Tensor, grad: Tensor | None = None) -> bool:
    """Whether kernels serve a call on `x`, and on a gradient of its dtype, here and now."""
    return (
        level is not None
        and x.is_cpu
        and (grad is None or grad.dtype == x.dtype)
        and not is_grad_enabled()
        and not _are_functorch_transforms_active()
        and not is_compiling()
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


def choose(asked: str, capability: str, folder: Path) -> dict[str, str]:
    """Return for every level, the best first, `ACTIVE` or why it does not serve.

    Args:
        asked: what the environment variable says; empty where it is not set.
        capability: what torch calls the machine.
        folder: where the libraries are, or in `why_not.txt` why there are none.
    """
    states: dict[str, str] = {}
    for name in LEVELS:
        if asked and asked not in ("off", *LEVELS):
            states[name] = f"{VARIABLE}={asked} is none of off, {', '.join(LEVELS)}"
        elif asked and asked != name:
            states[name] = f"{VARIABLE}={asked}"
        elif not (folder / f"{name}.so").exists():
            note = folder / "why_not.txt"
            states[name] = note.read_text(encoding="utf-8") if note.exists() else "not built"
        elif capability not in NEEDS.get(name, (capability,)):
            states[name] = f"the machine has {capability}"
        elif ACTIVE in states.values():
            states[name] = "a better one is active"
        else:
            states[name] = ACTIVE
    return states


def _load() -> tuple[str | None, str, dict[str, str]]:
    """Load the best library that can serve: its level, why that one or none, and all levels."""
    asked, capability = os.environ.get(VARIABLE, ""), torch.backends.cpu.get_cpu_capability()
    found = choose(asked, capability, FOLDER)
    best = next((name for name, state in found.items() if state == ACTIVE), None)
    if best is None:
        return None, "; ".join(dict.fromkeys(found.values())), found
    torch.ops.load_library(FOLDER / f"{best}.so")
    return best, f"{VARIABLE}={asked}" if asked else f"the machine has {capability}", found


level, reason, states = _load()
