"""Triton kernels: looked for at the first call on a GPU, and never required.

A file `triton*.py` stands beside the module that declares an operator, as its `cpu*.cpp` does. It
says `implement(...)` of functions that have the operators' names and arguments; noise is a seed and
an offset. torch's dispatcher then has them for CUDA, which is what it calls AMD's devices too.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .internals import tracing, transforms_active
from .library import library

_Function = TypeVar("_Function", bound=Callable[..., Any])

IMPLEMENTED: dict[str, Callable[..., Any]] = {}
"""By the operator's name; filled as files `triton.py` are imported."""

DECLARED: dict[str, str] = {}
"""The modules that declare operators, by the operator's name."""

enabled, interpreted = True, False
"""Whether kernels may serve, and whether Triton's interpreter runs them on the CPU, for tests."""


def on_gpus(schema: str) -> Callable[[_Function], _Function]:
    """Make the decorated reference an operator of `schema` that only GPUs have a kernel of.

    Graphs that are recorded hold the reference's operations, which compilers fuse.
    """

    def register(reference: _Function) -> _Function:
        name = reference.__name__
        library.define(name + schema)
        library.impl(name, reference, "CompositeExplicitAutograd")
        declare(name, reference.__module__)
        operator = getattr(torch.ops.straightthrough, name)

        def call(x: Tensor, *rest: Any) -> Any:
            given = [value for value in (x, *rest) if isinstance(value, Tensor)]
            recorded = torch.is_grad_enabled() and any(value.requires_grad for value in given)
            recorded |= any(type(value) is not Tensor for value in given)
            if not (recorded or tracing() or transforms_active()) and serves(x, name):
                return operator(x, *rest)
            return reference(x, *rest)

        return cast(_Function, functools.wraps(reference)(call))

    return register


def declare(name: str, module: str) -> None:
    """Let the kernel of an operator be looked for beside the module that declares it."""
    DECLARED[name] = module


def implement(*functions: Callable[..., Any]) -> None:
    """Let functions be what serves the operators of their names on GPUs."""
    IMPLEMENTED.update({function.__name__: function for function in functions})


def why_not() -> str | None:
    """Return why no kernel can serve on a GPU, if none can."""
    return None if find_spec("triton") else "triton is not installed"


@functools.cache
def warn_once(reason: str) -> None:
    """Warn that a GPU is used for which there are no kernels."""
    warnings.warn(
        f"straightthrough has no kernels for this GPU and is slower without: {reason}. "
        "`pip install triton` mends it; plain torch serves meanwhile",
        RuntimeWarning,
        stacklevel=2,
    )


def serves(x: Tensor, name: str) -> bool:
    """Whether a kernel serves an operator on the device of a tensor."""
    if not enabled or not (x.is_cuda or (x.is_cpu and interpreted)):
        return False
    if x.is_cuda and (reason := why_not()):
        warn_once(reason)
    return name in loaded("CUDA" if x.is_cuda else "CPU")  # CUDA is AMD's too


@functools.cache
def loaded(key: str) -> frozenset[str]:
    """Register all kernels under a dispatch key, at the first call; return whose they are."""
    if why_not():
        return frozenset()
    for folder, package in sorted(set(map(_package_of, DECLARED.values()))):
        for file in sorted(Path(folder).glob("triton*.py")):
            import_module(f"{package}.{file.stem}")
    for name in IMPLEMENTED:
        _register(name, key)
    return frozenset(IMPLEMENTED)


@functools.cache  # once in a process, as torch warns of a second time
def _register(name: str, key: str) -> None:
    function = IMPLEMENTED[name]
    serve = _on_its_device(function) if key == "CUDA" else function
    for overload in getattr(torch.ops.straightthrough, name).overloads():
        full = name if overload == "default" else f"{name}.{overload}"
        library.impl(full, serve, key)


def _package_of(module: str) -> tuple[str, str]:
    """Return the folder of a module, and the name of its package."""
    return str(Path(str(sys.modules[module].__file__)).parent), module.rpartition(".")[0]


def _on_its_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Launch on the device of the first argument, which need not be the current one."""

    def call(x: Tensor, *rest: Any) -> Any:
        if x.get_device() == torch.cuda.current_device():
            return function(x, *rest)
        with torch.cuda.device(x.device):
            return function(x, *rest)

    return call
