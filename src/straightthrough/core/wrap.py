"""An operator out of two functions: hard in forward, soft in backward only."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .errors import (
    FLOATING,
    STRIDED,
    ArgumentError,
    DtypeError,
    ShapeError,
    check_dense,
    check_not_traced,
)
from .internals import (
    autocast_enabled,
    dual_level,
    is_alias,
    outlived,
    transforms_active,
)
from .straight_through import straight_through

P = ParamSpec("P")
Function = Callable[P, Any]
RandomState = dict[torch.device | torch.Generator, Tensor]
"""Of the default generators of devices, and of generators that are arguments."""


def _holders(values: Sequence[Tensor], i: int) -> int:
    """Return how many hold a value, as this Python counts: versions of it differ."""
    value = values[i]
    return sys.getrefcount(value)


ALONE = _holders([torch.empty(0)], 0)
"""How many do where nothing else than the list holds it."""


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a wrapped operator: its functions, arguments and surroundings."""

    hard: Callable[..., Any]
    soft: Callable[..., Any]
    tree: TreeSpec
    leaves: tuple[Any, ...]
    positions: tuple[int, ...]
    random_state: RandomState
    autocast: dict[str, torch.dtype]

    def values(
        self, function: Callable[..., Any], tensors: Sequence[Tensor]
    ) -> tuple[list[Tensor], TreeSpec]:
        """Return the tensors that a function returns, and how they are put together."""
        leaves = list(self.leaves)
        for position, tensor in zip(self.positions, tensors, strict=True):
            leaves[position] = tensor
        args, kwargs = tree_unflatten(leaves, self.tree)
        values, structure = tree_flatten(function(*args, **kwargs))
        name = getattr(function, "__name__", str(function))
        for value in values:
            if not isinstance(value, Tensor):
                kind = type(value).__name__
                raise ArgumentError(
                    f"{name} must return a tensor, or a tuple, list or dict of them, got {kind}"
                )
            if type(value) is not Tensor or value.layout is not STRIDED:
                check_dense(f"the value of {name}", value)
        return values, structure

    def forward(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], TreeSpec]:
        """Return the values of `hard`, floating, each a tensor that nothing else holds."""
        values, structure = self.values(self.hard, tensors)
        return [self._own(i, values, tensors) for i in range(len(values))], structure

    def _own(self, i: int, values: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
        value = values[i]
        if not value.is_floating_point():
            if value.is_complex():
                raise DtypeError(
                    f"the value of hard must be real, got {value.dtype}; "
                    f"return torch.view_as_real(...) of it, and from soft too"
                )
            return value.to(_result_dtype(tensors))
        # Compiled code can't ask whether a tensor is a view; there a copy is fused away.
        if torch.compiler.is_compiling() or value._is_view() or value.requires_grad:
            return value.clone()
        # Whoever else holds it, as a module does its buffer, would find a gradient's graph on it.
        if _holders(values, i) > ALONE + 1:  # the one is the name `value`
            return value.clone()
        others = (*tensors, *values[:i])
        return value.clone() if any(is_alias(value, other) for other in others) else value

    def backward(
        self,
        wanted: Sequence[int],
        tensors: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        structure: TreeSpec,
        shapes: Sequence[torch.Size],
    ) -> dict[int, Tensor]:
        """Return the gradients to the tensors that are wanted, by their places."""
        again = torch.is_grad_enabled()  # a graph of the gradient is asked for
        inputs = list(tensors)
        with torch.enable_grad():
            for i in wanted:
                tensor = tensors[i]
                inputs[i] = tensor.view_as(tensor) if again else tensor.detach().requires_grad_()
            with _random_state(self.random_state), _autocast(self.autocast, tensors):
                values, of_soft = self.values(self.soft, inputs)
        _check_alike(of_soft, structure, [value.shape for value in values], shapes)
        for value, grad in zip(values, grads, strict=True):
            if grad is not None:
                _check_soft(value)
        pairs = [
            (value, grad.to(value.dtype))
            for value, grad in zip(values, grads, strict=True)
            if grad is not None and value.requires_grad
        ]
        if not pairs:
            return {i: torch.zeros_like(tensors[i]) for i in wanted}
        outputs, given = zip(*pairs, strict=True)
        found = torch.autograd.grad(
            outputs, [inputs[i] for i in wanted], given, create_graph=again, materialize_grads=True
        )
        return dict(zip(wanted, found, strict=True))

    def at_once(self, tensors: Sequence[Tensor]) -> Any:
        """Return the value with its gradient, `soft` being run now: what a graph can hold."""
        with torch.no_grad():
            hard, structure = self.forward(tensors)
        with _random_state(self.random_state):
            soft, of_soft = self.values(self.soft, tensors)
        shapes = [value.shape for value in hard]
        _check_alike(of_soft, structure, [value.shape for value in soft], shapes)
        for value in soft:
            _check_soft(value)
        pairs = zip(hard, soft, strict=True)
        joined = [straight_through(value, smooth.to(value.dtype)) for value, smooth in pairs]
        return tree_unflatten(joined, structure)


class Wrapped(torch.autograd.Function):
    """`hard` forward; backward ordinary autograd through `soft`, which takes whatever it takes."""

    @staticmethod
    def forward(ctx: Any, call: _Call, structure: list[TreeSpec], *tensors: Tensor) -> Any:
        learned = [tensor for tensor in tensors if tensor.requires_grad]
        before = [tensor._version for tensor in learned]
        values, spec = call.forward(tensors)
        if before != [tensor._version for tensor in learned]:
            raise ArgumentError(
                "hard wrote to an argument that gets a gradient, which would be that of what is "
                "there now; let it return a new tensor, as x.clamp(0) does for x.clamp_(0)"
            )
        structure.append(spec)
        ctx.call, ctx.structure, ctx.shapes = call, spec, [value.shape for value in values]
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        if all(grad is None for grad in grads):
            return (None, None, *(None,) * len(needed))
        wanted = [i for i, due in enumerate(needed) if due]
        found = ctx.call.backward(wanted, ctx.saved_tensors, grads, ctx.structure, ctx.shapes)
        return (None, None, *(found.get(i) for i in range(len(needed))))


def wrap(hard: Function[P] | None = None, soft: Function[P] | None = None) -> Any:
    """Make an operator out of two functions of the same arguments.

    Forward runs `hard` alone. `soft` is run first in backward, under the random state that
    forward saw (torch's, and that of each `torch.Generator` among the arguments), so that both
    draw the same noise. Also a decorator: `@st.wrap(soft=soft_fn)`.

    Args:
        hard: returns a tensor, or a tuple, list or dict of them; bool and integer ones are cast
            to the floating inputs' dtype.
        soft: returns floating tensors of the same shapes, put together in the same way.

    Returns:
        A function of the same arguments. Tensors in them, also inside lists, tuples and dicts,
        get gradients. Pass in what is to learn, such as `dict(net.named_parameters())` for
        `torch.func.functional_call`: parameters that `soft` closes over get no gradient in eager
        code, but do where forward runs `soft` too (see Cost), as it is then traced like any code.

    Raises:
        DtypeError: in backward, if `soft` returns no floats where a gradient is due (in compiled
            code, at once); if `hard` returns complex numbers, or integers where no argument is
            floating.
        ArgumentError: if `soft` is missing, one of the two is no function or returns something else
            than dense tensors, they put these together in different ways (of dicts, in another
            order of keys), no tensor is passed, or `hard` writes to one that gets a gradient (in
            compiled code and transforms not seen).
        ShapeError: in backward, if two shapes differ (in compiled code, at once).

    Edge cases: the value is that of `hard` bit for bit, NaN and -0.0 included. What `soft` changes
    besides, such as the running statistics of a `BatchNorm`, changes in backward, once a backward,
    and not at all without one. A module that both functions call is called twice a step, and its
    statistics move twice; call it outside, and pass its value in. An operator can be pickled where
    `hard` and `soft` can, by decorator too: functions of torch and of modules, not lambdas.

    Higher order: that of `soft`; forward mode works. Backward is ordinary autograd, so `soft` may
    hold any `autograd.Function`, `torch.utils.checkpoint` (with `use_reentrant=False`) and
    `requires_grad_()`, and it runs under the autocast of the forward. Inside `torch.func`
    transforms it may hold what these take. Under `torch.compile` random functions are not
    replayed: draw the noise outside and pass it in.

    Cost: forward is that of `hard`; the input tensors are saved; backward runs `soft` forward
    and backward once. In compiled code, exported graphs and `torch.func` transforms forward runs
    `soft` too. A value that is an argument, or that another holds, as a buffer, is copied.

    Example:
        >>> step = st.wrap(lambda x: x > 0, torch.sigmoid)
        >>> x = torch.tensor([0.0, 2.0], requires_grad=True)
        >>> step(x)
        tensor([0., 1.], grad_fn=<WrappedBackward>)
    """
    if soft is None:
        raise ArgumentError("wrap needs soft: st.wrap(hard, soft) or @st.wrap(soft=soft)")
    for name, function in (("hard", hard), ("soft", soft)):
        if function is not None and not callable(function):
            kind = type(function).__name__
            raise ArgumentError(f"{name} must be a function of the arguments, got {kind}")
    if hard is None:
        return functools.partial(wrap, soft=soft)

    @functools.wraps(hard)
    def operator(*args: P.args, **kwargs: P.kwargs) -> Any:
        leaves, tree = tree_flatten((args, kwargs))
        positions = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        if not positions:
            for leaf in leaves:
                check_not_traced(leaf)
            raise ArgumentError("a wrapped operator needs at least one tensor among its arguments")
        tensors = [leaves[i] for i in positions]
        rest = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        call = functools.partial(_Call, hard, soft, tree, rest, positions)
        if torch.compiler.is_compiling() or transforms_active() or dual_level():
            return call(_read_random_state(leaves), {}).at_once(tensors)
        tensors = [*map(outlived, tensors)]
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
            with torch.no_grad():
                values, structure = call({}, {}).forward(tensors)
            return tree_unflatten(values, structure)
        structures: list[TreeSpec] = []
        surrounded = call(_read_random_state(leaves), _read_autocast(tensors))
        values = Wrapped.apply(surrounded, structures, *tensors)
        return tree_unflatten(values, structures[0])

    if torch.compiler.is_compiling() or _is_decorated(hard):
        return operator
    return Operator(hard, soft, operator)


class Operator:
    """A wrapped operator whose functions are found elsewhere: it is pickled as these."""

    def __init__(
        self, hard: Callable[..., Any], soft: Callable[..., Any], call: Callable[..., Any]
    ) -> None:
        functools.update_wrapper(self, call)
        self._hard, self._soft, self._call = hard, soft, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __get__(self, instance: object, owner: type) -> Any:
        """Be a method where a class has it, as a function is."""
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        return wrap, (self._hard, self._soft)


def _is_decorated(hard: Callable[..., Any]) -> bool:
    """Whether a function is not found by its name: a decorator gives that to the operator."""
    if not isinstance(hard, types.FunctionType):
        return False
    found: Any = sys.modules.get(hard.__module__)
    for name in hard.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is not hard


def _check_alike(
    of_soft: TreeSpec, of_hard: TreeSpec, soft: Sequence[torch.Size], hard: Sequence[torch.Size]
) -> None:
    if of_soft != of_hard:
        raise ArgumentError(
            f"soft returned {_described(of_soft)} where hard returned {_described(of_hard)}; "
            f"the two must agree"
        )
    for one, other in zip(soft, hard, strict=True):
        if one != other:
            raise ShapeError(
                f"soft returned shape {tuple(one)} where hard returned {tuple(other)}; "
                f"the two must agree"
            )


def _check_soft(value: Tensor) -> None:
    if value.dtype not in FLOATING:
        raise DtypeError(
            f"the value of soft must be float16, bfloat16, float32 or float64, got {value.dtype}; "
            f"return floats, or swap hard and soft"
        )


def _described(structure: TreeSpec) -> str:
    if structure.is_leaf():
        return "a tensor"
    if structure.type is dict:
        return f"a dict of {', '.join(map(repr, structure.context))}"
    return f"a {structure.type.__name__} of {structure.num_leaves}"


def _result_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    if not floating:
        raise DtypeError("hard returned integers and no argument is floating; return floats")
    return functools.reduce(torch.promote_types, floating)


def _read_random_state(leaves: Sequence[Any]) -> RandomState:
    if torch.compiler.is_compiling():
        return {}
    state: RandomState = {torch.device("cpu"): torch.get_rng_state()}
    for leaf in leaves:
        if isinstance(leaf, torch.Generator):
            state[leaf] = leaf.get_state()
        elif isinstance(leaf, Tensor) and leaf.device.type not in ("cpu", "meta"):
            module = torch.get_device_module(leaf.device)
            state[leaf.device] = module.get_rng_state(leaf.device)
    return state


def _read_autocast(tensors: Sequence[Tensor]) -> dict[str, torch.dtype]:
    """Return the dtype of every kind of device with autocast."""
    if not autocast_enabled():
        return {}
    kinds = {"cpu", *(tensor.device.type for tensor in tensors)} - {"meta"}
    return {k: torch.get_autocast_dtype(k) for k in kinds if torch.is_autocast_enabled(k)}


@contextmanager
def _random_state(state: RandomState) -> Iterator[None]:
    """Run a block under saved random states, and put the present ones back after it."""
    present = [(source, _swap(source, saved)) for source, saved in state.items()]
    try:
        yield
    finally:
        for source, saved in reversed(present):  # an argument may be a default generator
            _swap(source, saved)


@contextmanager
def _autocast(saved: dict[str, torch.dtype], tensors: Sequence[Tensor]) -> Iterator[None]:
    """Run a block under the autocast of the forward, and no other."""
    present = _read_autocast(tensors)
    if saved == present:
        yield
        return
    with ExitStack() as stack:
        for kind in {*saved, *present}:
            autocast = torch.autocast(kind, saved.get(kind), enabled=kind in saved)
            stack.enter_context(autocast)
        yield


def _swap(source: torch.device | torch.Generator, state: Tensor) -> Tensor:
    if isinstance(source, torch.Generator):
        before = source.get_state()
        source.set_state(state)
        return before
    if source.type == "cpu":
        before = torch.get_rng_state()
        torch.set_rng_state(state)
        return before
    module = torch.get_device_module(source)
    before = module.get_rng_state(source)
    module.set_rng_state(state, source)
    return before
