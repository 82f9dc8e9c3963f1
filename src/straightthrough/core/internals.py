"""The private names of torch that the engine needs, all of them here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether a transform of `torch.func` is at work."""


def tracing() -> bool:
    """Whether a graph is being recorded, by Dynamo or behind an operator.

    Behind one `torch.compiler.is_compiling` does not always know it, with torch 2.10 never.
    """
    return is_compiling() or torch._guards.TracingContext.try_get() is not None


unwrap_if_dead: Callable[[Tensor], Tensor] = torch._C._functorch.unwrap_if_dead
"""What a transform's wrapper holds, if the tensor has outlived the transform."""


OpOverload = torch._ops.OpOverload
"""An operator with its schema."""

RECORDED = (torch._subclasses.FakeTensor, torch._subclasses.functional_tensor.FunctionalTensor)
"""Tensors that stand for plain ones while a graph is recorded."""

DispatchKeySet = torch._C.DispatchKeySet
"""What the dispatcher still has to do of a call."""


def has_implementation(operator: str, key: str) -> bool:
    """Whether an operator of ours has one for a dispatch key."""
    found: bool = torch._C._dispatch_has_kernel_for_dispatch_key(
        f"straightthrough::{operator}", key
    )
    return found


autocast_enabled: Callable[[], bool] = torch._C._is_any_autocast_enabled
"""Whether there is autocast, on any device."""


def dual_level() -> bool:
    """Whether a level of forward-mode derivatives is open, where no transform is active."""
    return forward_ad._current_level >= 0


def forward_mode() -> bool:
    """Whether forward-mode derivatives are taken, inside the present transform if there is one."""
    if not transforms_active():
        return dual_level()
    # Compiled code enters the level without telling `forward_ad`.
    functorch = torch._C._functorch
    return functorch.peek_interpreter_stack().key() == functorch.TransformType.Jvp


def without_grad(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
    """Call `function` in grad mode as under `torch.no_grad`, whose context takes 2 us more."""
    torch._C._set_grad_enabled(False)
    try:
        return function(*inputs)
    finally:
        torch._C._set_grad_enabled(True)


def entry(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return what `function.apply` calls in the end.

    What it asks before, the engine knows; asking it again takes 3 us.
    """
    enter: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]  # torch._C's
    return enter


def below_autograd(
    overload: torch._ops.OpOverload, keyset: torch._C.DispatchKeySet, *args: Any
) -> Any:
    """Call an operator as its `Autograd` kernel does: the keys that come after autograd."""
    with torch._C._AutoDispatchBelowAutograd():
        return overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)


@contextmanager
def one_level() -> Iterator[None]:
    """Let a Function be entered at the present level of a transform alone."""
    functorch = torch._C._functorch
    before = functorch.get_single_level_autograd_function_allowed()
    functorch.set_single_level_autograd_function_allowed(True)
    try:
        yield
    finally:
        functorch.set_single_level_autograd_function_allowed(before)


def push_forward(
    function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Tensor:
    """Return `J tangents`, J the Jacobian of `function`, at the level of a Function's `jvp`.

    There `torch.func.jvp` can't open a level of its own; the one that is open serves.
    """
    with forward_ad._set_fwd_grad_enabled(True):
        bare = (torch._unpack_dual(primal, level=0)[0] for primal in primals)
        pairs = zip(bare, tangents, strict=True)
        value = function(*(torch._make_dual(*pair, level=0) for pair in pairs))
        primal, tangent = torch._unpack_dual(value, level=0)
    return torch.zeros_like(primal) if tangent is None else tangent


@contextmanager
def derivatives_enabled() -> Iterator[None]:
    """Record derivatives of both modes, which a Function's forward turns off."""
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
        yield
