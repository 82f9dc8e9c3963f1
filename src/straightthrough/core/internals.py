"""The private names of torch that the engine needs, each with what serves where torch lost it.

What stands in asks more often than is needed, or costs some microseconds. Where a wrong gradient
could come of it, there is none, and `Missing` says so when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pkgutil import resolve_name
from typing import Any, NoReturn, TypeAlias, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling


class Missing(RuntimeError):
    """The torch at hand lacks a private name for which nothing can stand in."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"torch {torch.__version__} has no {name}, which derivatives inside torch.func and "
            "compiled code need: use a torch that this library was tried with, or plain autograd"
        )


def private(name: str, instead: Any) -> Any:
    """Return what torch has under `name`, `module:attribute`, or `instead` where it has none."""
    try:
        return resolve_name(name)
    except AttributeError:
        return instead


def required(name: str) -> Any:
    """Return what torch has under `name`, or a function that raises `Missing`."""

    def refuse(*_: Any) -> NoReturn:
        raise Missing(name)

    return private(name, refuse)


def _yes(*_: Any) -> bool:
    return True


def _same(value: Any, **_: Any) -> Any:
    return value


transforms_active: Callable[[], bool] = private("torch._C:_are_functorch_transforms_active", _yes)
"""Whether a transform of `torch.func` is at work; yes is the careful answer."""

_named: Callable[..., None] = private("torch.utils._pytree:_register_namedtuple", _same)
_NamedTuple = TypeVar("_NamedTuple", bound=type)


def in_files(cls: _NamedTuple) -> _NamedTuple:
    """Let a file hold an exported program that returns this named tuple."""
    _named(cls, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}")
    return cls


_modes: Callable[[], int] = private("torch._C:_len_torch_dispatch_stack", _yes)
_jit_trace: Callable[[], Any] = private("torch._C:_get_tracing_state", _yes)


def observed() -> bool:
    """Whether a dispatch mode or `torch.jit.trace` looks at every operator of torch."""
    return bool(_modes()) or _jit_trace() is not None


unobserved: Callable[[], AbstractContextManager[Any]] = private(
    "torch.utils._python_dispatch:_disable_current_modes", nullcontext
)
"""Hides operators from every dispatch mode, as a selective checkpoint's, which counts them."""

_tracing_context: Callable[[], Any] = private("torch._guards:TracingContext.try_get", lambda: None)


def tracing() -> bool:
    """Whether a graph is being recorded, by Dynamo or behind an operator.

    Behind one `torch.compiler.is_compiling` does not always know it, with torch 2.10 never.
    """
    return is_compiling() or _tracing_context() is not None


unwrap_if_dead: Callable[[Tensor], Tensor] = private("torch._C:_functorch.unwrap_if_dead", _same)
"""What a transform's wrapper holds, if the tensor has outlived the transform."""


def outlived(tensor: Tensor) -> Tensor:
    """Return what is left of a tensor that may have outlived some transforms, one in another."""
    while (inner := unwrap_if_dead(tensor)) is not tensor:
        tensor = inner
    return tensor


is_alias: Callable[[Tensor, Tensor], bool] = private("torch._C:_is_alias_of", _yes)
"""Whether two tensors lie in one memory; yes is the careful answer."""

_wrapped: Callable[[Tensor], bool] = private(
    "torch._C:_functorch.is_functorch_wrapped_tensor", lambda _: False
)
_unwrap: Callable[[Tensor], Tensor] = private("torch._C:_functorch.get_unwrapped", _same)


def held(tensor: Tensor) -> Tensor:
    """Return what the wrappers of all transforms hold, with a dimension more for each `vmap`."""
    while _wrapped(tensor):
        tensor = _unwrap(tensor)
    return tensor


Operator: TypeAlias = Any
"""An operator of torch with its schema, an `OpOverload`."""


def native(operator: Operator) -> Callable[..., Any]:
    """Return an operator's way into torch, without a call of Python's."""
    direct: Any = getattr(operator, "_op", operator)
    return cast(Callable[..., Any], direct)


_Constant = TypeVar("_Constant", bound=Callable[..., Any])


def constant_in_graphs(function: _Constant) -> _Constant:
    """Have compiled code call a function while it is recorded, and keep what it returns.

    As `torch.compiler.assume_constant_result`, which imports all of the compiler to set this mark.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # functions take any
    return function


_graph_task: Callable[[], int] = private("torch._C:_current_graph_task_id", lambda: -1)


def inside_backward() -> bool:
    """Whether a backward is at work: a forward in it is one that a checkpoint runs again."""
    return _graph_task() != -1


_has_implementation: Callable[[str, str], bool] = private(
    "torch._C:_dispatch_has_kernel_for_dispatch_key", _yes
)


_GRAPH_TENSORS = (
    private("torch._subclasses:FakeTensor", None),
    private("torch._subclasses.functional_tensor:FunctionalTensor", None),
)
RECORDED: tuple[type[Tensor], ...] = tuple(found for found in _GRAPH_TENSORS if found)
"""Tensors that stand for plain ones while a graph is recorded; without, the reference serves."""


def has_implementation(operator: str, key: str) -> bool:
    """Whether an operator of ours has one for a dispatch key."""
    return _has_implementation(f"straightthrough::{operator}", key)


autocast_enabled: Callable[[], bool] = private("torch._C:_is_any_autocast_enabled", _yes)
"""Whether there is autocast, on any device; yes is the careful answer."""


def dual_level() -> bool:
    """Whether a level of forward-mode derivatives is open, where no transform is active."""
    return getattr(forward_ad, "_current_level", 0) >= 0


_peek: Callable[[], Any] = private("torch._C:_functorch.peek_interpreter_stack", lambda: None)
_jvp = private("torch._C:_functorch.TransformType.Jvp", None)


def forward_mode() -> bool:
    """Whether forward-mode derivatives are taken, inside the present transform if there is one."""
    if not transforms_active():
        return dual_level()
    # Compiled code enters the level without telling `forward_ad`.
    top = _peek()
    return top is None or _jvp is None or top.key() == _jvp


def has_tangent(tensor: Tensor) -> bool:
    """Whether forward-mode derivatives are taken by `tensor`, inside the present transform."""
    return forward_mode() and forward_ad.unpack_dual(tensor, level=0)[1] is not None


_set_grad_enabled: Callable[[bool], Any] = private("torch._C:_set_grad_enabled", None)


def without_grad(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
    """Call `function` in grad mode as under `torch.no_grad`, whose context takes 2 us more."""
    if _set_grad_enabled is None:
        with torch.no_grad():
            return function(*inputs)
    _set_grad_enabled(False)
    try:
        return function(*inputs)
    finally:
        _set_grad_enabled(True)


def entry(function: type[torch.autograd.Function], *attributes: str) -> Callable[..., Any]:
    """Return what `function.apply` calls in the end, and have its node call `backward` at once.

    What the two ask before, the engine knows; asking it again takes 3 us, and .3 us in backward.
    The node has slots for the attributes that `forward` sets, as a dictionary takes .1 us.
    """
    node: Any = getattr(function, "_backward_cls", None)
    if node is not None:
        own = {"apply": function.backward, "__slots__": attributes}
        function._backward_cls = type(node.__name__, (node,), own)
    enter: Callable[..., Any]
    enter = getattr(super(torch.autograd.Function, function), "apply", function.apply)
    return enter


_below_autograd: Callable[[], AbstractContextManager[None]] = required(
    "torch._C:_AutoDispatchBelowAutograd"
)
_after_autograd: Any = private("torch._C:_after_autograd_keyset", None)


def below_autograd(operator: Operator, keyset: Any, *args: Any) -> Any:
    """Call an operator as its `Autograd` kernel does: the keys that come after autograd."""
    with _below_autograd():
        if _after_autograd is None:
            return operator(*args)
        return operator.redispatch(keyset & _after_autograd, *args)


_force_keys: Any = private("torch._C:_ForceDispatchKeyGuard", None)
_included: Any = private("torch._C:_dispatch_tls_local_include_set", None)
_excluded: Any = private("torch._C:_dispatch_tls_local_exclude_set", None)
_OF_TRANSFORMS = (
    private("torch._C:DispatchKey.FuncTorchDynamicLayerFrontMode", None),
    private("torch._C:DispatchKey.FuncTorchDynamicLayerBackMode", None),
    private("torch._C:DispatchKey.FuncTorchBatched", None),
    private("torch._C:DispatchKey.FuncTorchVmapMode", None),
    private("torch._C:DispatchKey.FuncTorchGradWrapper", None),
)


_OF_FUNCTIONS = (
    *_OF_TRANSFORMS,
    private("torch._C:DispatchKey.AutogradFunctionality", None),
    private("torch._C:DispatchKey.ADInplaceOrView", None),
    private("torch._C:DispatchKey.Conjugate", None),
    private("torch._C:DispatchKey.Negative", None),
)


def transforms_enabled() -> AbstractContextManager[Any]:
    """Let transforms begin where a graph is recorded below autograd: torch has turned them off."""
    return _enabled(_OF_TRANSFORMS)


def functions_enabled() -> AbstractContextManager[Any]:
    """Let a function that is called below autograd do all that it can elsewhere.

    Torch has turned off derivatives and transforms there, and in compiled code conjugation too.
    """
    return _enabled(_OF_FUNCTIONS)


def _enabled(keys: Iterable[Any]) -> AbstractContextManager[Any]:
    if None in (_force_keys, _included, _excluded, *keys):
        return nullcontext()
    excluded = _excluded()
    for key in keys:
        excluded = excluded.remove(key)
    guard: AbstractContextManager[Any] = _force_keys(_included(), excluded)
    return guard


_one_level: Callable[[], bool] = required(
    "torch._C:_functorch.get_single_level_autograd_function_allowed"
)
_set_one_level: Callable[[bool], None] = required(
    "torch._C:_functorch.set_single_level_autograd_function_allowed"
)


@contextmanager
def one_level() -> Iterator[None]:
    """Let a Function be entered at the present level of a transform alone."""
    before = _one_level()
    _set_one_level(True)
    try:
        yield
    finally:
        _set_one_level(before)


_forward_derivatives: Callable[[bool], AbstractContextManager[None]] = required(
    "torch.autograd.forward_ad:_set_fwd_grad_enabled"
)


@contextmanager
def outer_levels(tensors: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Have a Function's `jvp` be differentiated by the forward modes around its own.

    Torch turns them all off there, and so takes 0 for `jvp` of `jvp`. The tensors that were saved
    come without the tangents of the level at hand, which `jvp` gets beside them.
    """
    if not transforms_active():
        yield tensors
        return
    with _forward_derivatives(True):
        yield [forward_ad.unpack_dual(tensor, level=0)[0] for tensor in tensors]


def push_forward(
    function: Callable[..., Tensor], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> Tensor:
    """Return `J tangents`, J the Jacobian of `function`, at the level of a Function's `jvp`.

    There `torch.func.jvp` can't open a level of its own; the one that is open serves. Inside `vmap`
    of such a `jvp` it can, and has to.
    """
    if not forward_mode():
        moved: Tensor = torch.func.jvp(function, tuple(primals), tuple(tangents))[1]
        return moved
    with _forward_derivatives(True):
        bare = (forward_ad.unpack_dual(primal, level=0)[0] for primal in primals)
        pairs = zip(bare, tangents, strict=True)
        value = function(*(forward_ad.make_dual(*pair, level=0) for pair in pairs))
        primal, tangent = forward_ad.unpack_dual(value, level=0)
    return torch.zeros_like(primal) if tangent is None else tangent


@contextmanager
def derivatives_enabled() -> Iterator[None]:
    """Record derivatives of both modes, which a Function's forward turns off."""
    with torch.enable_grad(), _forward_derivatives(True):
        yield
