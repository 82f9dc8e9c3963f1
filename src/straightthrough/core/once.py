"""What a forward learns once: a checkpoint runs that forward again, in backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_exporting

from .errors import StraightThroughError
from .internals import inside_backward
from .library import library


def runs_again() -> bool:
    """Whether this forward is one that a checkpoint runs again. Compiled code asks `before`."""
    return not is_compiling() and inside_backward()


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
