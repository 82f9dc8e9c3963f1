"""What a forward learns once: a checkpoint runs that forward again, in backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_exporting

from .errors import ArgumentError, StraightThroughError
from .internals import held, inside_backward
from .library import library
from .mesh import laid_as


def runs_again() -> bool:
    """Whether this forward is one that a checkpoint runs again. Compiled code asks `before`."""
    return not is_compiling() and inside_backward()


def has_begun(buffer: Tensor) -> bool:
    """Whether a number that is above 0 once something has begun is; inside `vmap` that of each."""
    return alike(held(buffer) > 0, "some have started from data and some have not")


def alike(done: Tensor, else_some: str) -> bool:
    """Whether what each model of an ensemble says of itself is true.

    Raises:
        ArgumentError: if it is of some and not of others.
    """
    every = bool(done.all())
    if not every and bool(done.any()):
        raise ArgumentError(
            f"of the models that vmap runs at once, {else_some}; train each of them so far before "
            f"their buffers are stacked"
        )
    return every


def check_start() -> None:
    """Raise where a graph is exported, in which what starts from data would do so at every call."""
    if is_exporting():
        raise StraightThroughError(
            "a scale or a codebook that has not started would start anew at every call of the "
            "exported graph; call the model on a batch first, in train(), and export it then"
        )


def put(kept: Tensor, value: Tensor | float, begun: Tensor | None = None) -> None:
    """Write a value, but where `begun`, if it is given, is true.

    Compiled code can't ask whether buffers are those of a model that has started, and start none.
    """
    if begun is not None:
        value = torch.where(laid_as(begun.expand(kept.shape), kept), kept, value)
    if isinstance(value, Tensor):
        kept.copy_(laid_as(value, kept))
    else:
        kept.fill_(value)


def before(buffer: Tensor) -> Tensor:
    """Return a buffer as it is before this forward changes it.

    What a compiled graph computes of a buffer its backward may compute again, when the buffer has
    changed: https://github.com/pytorch/pytorch/pull/197039. It does not call an operator of ours
    again, whose result it keeps. Under a checkpoint it does, and is refused.
    """
    if not is_compiling() or is_exporting():
        return buffer
    held: Tensor = _before(buffer)
    return held


def _copy(buffer: Tensor) -> Tensor:
    if inside_backward():
        raise StraightThroughError(
            "compiled code that learns from its forward (a codebook, a router, an observed scale, "
            "a running confidence) runs it again in backward, as torch.utils.checkpoint has it, "
            "and would learn twice: leave the module out of torch.compile, or compile the function "
            "that calls checkpoint, with update='manual' for a codebook"
        )
    return buffer.clone()


library.define("before(Tensor buffer) -> Tensor")
library.impl("before", _copy, "CompositeExplicitAutograd")
torch.library.register_fake("straightthrough::before", torch.empty_like, lib=library)
_before: Any = torch.ops.straightthrough.before.default
