"""Compiled kernels: which library serves, and the operators that it implements.

A kernel is a `torch.library` operator, declared with its schema and its reference in the package
whose `cpu*.cpp` implements it on the CPU, and whose `triton*.py` may on GPUs (`gpu.py`). Compiled
graphs call it whole. The reference runs on other devices, inside functorch transforms, and where
gradients are recorded.
"""

from __future__ import annotations

import functools
import inspect
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, is_grad_enabled
from torch.compiler import is_compiling
from torch.nn import Parameter

from . import gpu, installed
from .installed import FOLDER
from .internals import RECORDED, Operator, has_implementation, native, tracing, transforms_active
from .library import library
from .noise import Noise

VARIABLE = "STRAIGHTTHROUGH_KERNELS"
LEVELS = (
    ("neon",)
    if platform.machine().lower() in ("aarch64", "arm64")
    else ("avx512", "avx2", "baseline")
)
"""Instruction sets that libraries are built for, the best first."""

NEEDS = {"avx512": ("AVX512",), "avx2": ("AVX512", "AVX2")}
"""What torch may call a machine that runs a level; the other levels run on all."""

INTERPRETER = "interpreter"
"""In the place of a level: Triton's interpreter runs the kernels for GPUs, for tests of these."""

ACTIVE = "active"

_Function = TypeVar("_Function", bound=Callable[..., Any])
Shape = Callable[..., Tensor]


@dataclass(frozen=True)
class Kernel:
    """A torch operator with its reference, and what serves it where.

    Attributes:
        name: `torch.ops.straightthrough.<name>`.
        reference: what it must equal, in plain torch.
        module: the module that declares it.
    """

    name: str
    reference: Callable[..., Any]
    module: str

    def providers(self) -> dict[str, str]:
        """What serves it on a type of device; the reference serves the others."""
        found = {}
        if level is not None and has_implementation(self.name, "CPU"):
            found["cpu"] = f"{level} kernels"
        if gpu.enabled and self.name in gpu.loaded("CUDA"):
            found["cuda"] = "Triton kernels"
        return found


KERNELS: dict[str, Kernel] = {}


def like(x: Tensor, *_: Any) -> Tensor:
    """A result of the shape and dtype of the first argument."""
    return x.new_empty(x.shape)


def in_its_order(x: Tensor, *_: Any) -> Tensor:
    """A result that lies in memory as the first argument does, where that has no gaps."""
    y = torch.empty_like(x)
    return y if y.stride() == x.stride() else like(x)


def bits(x: Tensor, *_: Any) -> Tensor:
    """A result of one bit an element of the first argument."""
    return x.new_empty((x.numel() + 7) // 8, dtype=torch.uint8)


def index(x: Tensor, *_: Any) -> Tensor:
    """A result of one class number a row of the first argument."""
    return x.new_empty(x.shape[:-1], dtype=torch.int64)


def kernel(schema: str, *results: Shape) -> Callable[[_Function], _Function]:
    """Make the decorated reference an operator of `schema`, served by its kernel where it can be.

    The first argument is the tensor whose device and dtype count. A kernel takes half precision as
    it is and tensors of any strides. `Noise noise`, which comes last, is a seed and an offset to
    the operator; kernels serve noise that lies in one run.

    Args:
        schema: the arguments and the result, as `torch.library` writes them.
        results: the shapes of the results, where they are not one `like` the first argument.
    """

    def register(reference: _Function) -> _Function:
        return served(reference.__name__, schema, reference, results)

    return register


def served(
    name: str, schema: str, reference: _Function, results: tuple[Shape, ...] = ()
) -> _Function:
    """Define the operator `name`; return the function that calls its kernel or the reference."""
    overload, with_numbers = _define(name, schema, reference, results or (like,))
    arguments = [tuple(said.split()[:2]) for said in schema[1:].partition(")")[0].split(", ")[1:]]
    floats = [i for i, (type_, _) in enumerate(arguments) if type_ == "float"]
    others = [i for i, (type_, _) in enumerate(arguments) if type_ == "Tensor"]
    way = _chooser(name, others, floats)
    ordered = results == (in_its_order,)
    record = functools.partial(_record, overload, with_numbers, floats, ordered)

    if "Noise noise" in schema:
        names = [name for _, name in arguments]
        samples = names.index("samples") if "samples" in names else None
        call = _with_noise(reference, native(overload), record, way, samples)
    else:
        call = _without_noise(reference, native(overload), record, way)
    return cast(_Function, functools.wraps(reference)(call))  # the signature of the reference


def _without_noise(
    reference: _Function, direct: _Function, record: _Function, way: Callable[..., int]
) -> Any:
    def call(x: Tensor, *rest: Any, **named: Any) -> Any:
        if named:
            return call(*inspect.signature(reference).bind(x, *rest, **named).args)
        at = way(x, rest)
        if at == _DIRECT:
            return direct(x, *rest)
        return record(x, rest) if at == _RECORDED else reference(x, *rest)

    return call


def _with_noise(
    reference: _Function,
    direct: _Function,
    record: _Function,
    way: Callable[..., int],
    samples: int | None,
) -> Any:
    def call(x: Tensor, *rest: Any) -> Any:
        noise = rest[-1]
        at = _REFERENCE if noise.run else way(x, rest)
        if at == _DIRECT:
            return direct(x, *rest[:-1], noise.seed, noise.offset)
        if at == _REFERENCE and samples is not None and not noise.run:
            # Without a kernel a graph has an average over draws whole, and not each draw.
            loop = rest[samples] > 1 and in_a_graph(x)
            if loop and not is_grad_enabled() and not transforms_active():
                at = _RECORDED
        if at == _RECORDED:
            return record(x, (*rest[:-1], noise.seed, noise.offset))
        return reference(x, *rest)

    return call


PLAIN = (Tensor, Parameter)


def known(x: Tensor) -> bool:
    """Whether a tensor is a plain one, or stands for one in a graph: of no other subclass."""
    return type(x) in PLAIN or isinstance(x, RECORDED)


_REFERENCE, _DIRECT, _RECORDED = range(3)


def _chooser(name: str, others: list[int], floats: list[int]) -> Callable[..., int]:
    """Return what says how a call goes: to the reference, the kernel, or a graph's operator.

    It is one function, as it is asked at every call, of few elements too.
    """

    def moving(rest: Sequence[Any]) -> bool:
        # A number on a device stays there, as in a graph: read, it would be waited for.
        return any(isinstance(rest[i], Tensor) for i in floats)

    def way(x: Tensor, rest: Sequence[Any]) -> int:
        cpu = x.is_cpu
        if (level is None or gpu.interpreted or not cpu) and not gpu.serves(x, name):
            return _REFERENCE
        if is_grad_enabled() or transforms_active():
            return _REFERENCE
        for i in others:
            if type(rest[i]) not in PLAIN and not known(rest[i]):
                return _REFERENCE
        if type(x) not in PLAIN:
            return _RECORDED if isinstance(x, RECORDED) else _REFERENCE
        return _RECORDED if is_compiling() or (not cpu and moving(rest)) else _DIRECT

    return way


def in_a_graph(x: Tensor) -> bool:
    """Whether a call on `x` is recorded; a plain tensor tells at once that it is not."""
    if is_compiling():
        return True
    return type(x) not in PLAIN and tracing()


def _record(
    overload: Operator,
    with_numbers: Operator | None,
    floats: list[int],
    ordered: bool,
    x: Tensor,
    rest: Sequence[Any],
) -> Any:
    """Call a kernel where a graph is recorded, its input in the order of the recorded result."""
    if not (ordered and in_its_order(x).stride() == x.stride()):
        x = x.contiguous()
    if with_numbers is None or not any(isinstance(rest[i], Tensor) for i in floats):
        return overload(x, *rest)
    numbers = [*rest]
    for i in floats:
        number = rest[i]
        if not isinstance(number, Tensor):
            number = torch.full((), number, dtype=torch.float64, device=x.device)
        numbers[i] = number.to(torch.float64)
    return with_numbers(x, *numbers)


def _define(
    name: str, schema: str, reference: Callable[..., Any], results: tuple[Shape, ...]
) -> tuple[Operator, Operator | None]:
    """Define an operator and, if it has floats, `name.numbers`, which takes tensors for them."""
    noisy = "Noise noise" in schema
    schema = schema.replace("Noise noise", "Tensor seed, SymInt offset")

    def plain(*args: Any) -> Any:
        return reference(*args[:-2], Noise(*args[-2:])) if noisy else reference(*args)

    def shapes(*args: Any) -> Any:
        made = tuple(shape(*args) for shape in results)
        return made if len(made) > 1 else made[0]

    overloads = []
    for overload in ("default", *(("numbers",) if "float " in schema else ())):
        full = name if overload == "default" else f"{name}.{overload}"
        library.define(full + (schema.replace("float ", "Tensor ") if full != name else schema))
        library.impl(full, plain, "CompositeExplicitAutograd")
        torch.library.register_fake(f"straightthrough::{full}", shapes, lib=library)
        overloads.append(getattr(getattr(torch.ops.straightthrough, name), overload))
    KERNELS[name] = Kernel(name, reference, reference.__module__)
    gpu.declare(name, reference.__module__)
    return overloads[0], overloads[1] if len(overloads) > 1 else None


def has_kernel(x: Tensor, grad: Tensor | None = None, name: str = "") -> bool:
    """Whether kernels serve a call on `x`, and on a gradient of its dtype, here and now.

    They know neither gradients to be recorded, nor the transforms of `torch.func`, nor subclasses
    of tensors. A library for the CPU has every kernel; of those for GPUs, `name` says which.
    """
    return (
        (level is not None if x.is_cpu and not gpu.interpreted else gpu.serves(x, name))
        and known(x)
        and (grad is None or (grad.dtype == x.dtype and known(grad)))
        and not is_grad_enabled()
        and not transforms_active()
    )


_serving: list[tuple[str | None, bool]] = []
"""What served before the contexts that are open, the first one's first."""


@contextmanager
def disabled() -> Iterator[None]:
    """Let the reference serve every call while the context is open, of other threads too."""
    global level
    _serving.append((level, gpu.enabled))
    level, gpu.enabled = None, False
    try:
        yield
    finally:
        level, gpu.enabled = _serving.pop()  # the first one's is the last, whoever leaves when


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
            states[name] = installed.why_not(folder) or "not built"
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
    if asked == INTERPRETER:
        said = f"{VARIABLE}={asked}"
        return asked, said, dict.fromkeys(LEVELS, said)
    found = choose(asked, capability, FOLDER)
    best = next((name for name, state in found.items() if state == ACTIVE), None)
    if best is None:
        return None, "; ".join(dict.fromkeys(found.values())), found
    try:
        torch.ops.load_library(FOLDER / f"{best}.so")
    except OSError as error:  # made for another system
        found[best] = f"cannot be loaded: {error}"
        return None, found[best], found
    return best, f"{VARIABLE}={asked}" if asked else f"the machine has {capability}", found


level, reason, states = _load()
gpu.enabled, gpu.interpreted = os.environ.get(VARIABLE) != "off", level == INTERPRETER

if os.environ.get(VARIABLE, "off") not in ("", "off", INTERPRETER, *LEVELS):
    warnings.warn(f"{reason}, so there are no CPU kernels", RuntimeWarning, stacklevel=2)
elif level is None and gpu.enabled:
    installed.warn_once(reason)
