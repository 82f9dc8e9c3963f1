"""An operator out of two functions: hard in forward, soft in backward only."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .engine import apply
from .errors import ArgumentError, DtypeError, ShapeError
from .internals import push_forward, transforms_active
from .operation import Operation
from .straight_through import straight_through

P = ParamSpec("P")
Function = Callable[P, Tensor]


@dataclass(frozen=True, eq=False)
class _Wrapped(Operation):
    hard: Callable[..., Tensor]
    soft: Callable[..., Tensor]
    tree: TreeSpec
    leaves: tuple[Any, ...]
    positions: tuple[int, ...]
    random_state: dict[torch.device, Tensor]

    def call(self, function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Tensor:
        leaves = list(self.leaves)
        for position, tensor in zip(self.positions, tensors, strict=True):
            leaves[position] = tensor
        args, kwargs = tree_unflatten(leaves, self.tree)
        value = function(*args, **kwargs)
        if not isinstance(value, Tensor):
            name = getattr(function, "__name__", function)
            raise ArgumentError(f"{name} must return one tensor, got {type(value).__name__}")
        return value

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        value = self.call(self.hard, tensors)
        if not value.is_floating_point():
            return (value.to(_result_dtype(tensors)),)
        # Compiled code can't ask whether a tensor is a view; there a copy is fused away.
        if torch.compiler.is_compiling() or value._is_view():
            return (value.clone(),)
        return (value.clone() if any(value is tensor for tensor in tensors) else value,)

    def backward(self, grad: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        smooth = [i for i, tensor in enumerate(tensors) if tensor.is_floating_point()]
        function, primals = self._of_smooth(smooth, tensors)
        with _random_state(self.random_state):
            value, pull = torch.func.vjp(function, *primals)[:2]
        _check_shapes(value, grad)
        gradients: list[Tensor | None] = [None] * len(tensors)
        for i, gradient in zip(smooth, pull(grad.to(value.dtype)), strict=True):
            gradients[i] = gradient
        return tuple(gradients)

    def at_once(self, *tensors: Tensor) -> Tensor:
        """Return the value with its gradient, `soft` being run now: what a graph can hold."""
        with torch.no_grad():
            hard = self.forward(*tensors)[0]
        with _random_state(self.random_state):
            soft = self.call(self.soft, tensors)
        _check_shapes(soft, hard)
        return straight_through(hard, soft)

    def jvp(self, tangents: Sequence[Tensor | None], *tensors: Tensor) -> Tensor:
        moving = [i for i, tangent in enumerate(tangents) if tangent is not None]
        function, primals = self._of_smooth(moving, tensors)
        with _random_state(self.random_state):
            directions = [tangent for tangent in tangents if tangent is not None]
            return push_forward(function, primals, directions)

    def _of_smooth(
        self, chosen: list[int], tensors: Sequence[Tensor]
    ) -> tuple[Callable[..., Tensor], list[Tensor]]:
        def function(*primals: Tensor) -> Tensor:
            merged = list(tensors)
            for i, primal in zip(chosen, primals, strict=True):
                merged[i] = primal
            return self.call(self.soft, merged)

        return function, [tensors[i] for i in chosen]


def wrap(hard: Function[P] | None = None, soft: Function[P] | None = None) -> Any:
    """Make an operator out of two functions of the same arguments.

    Forward runs `hard` alone. `soft` is run first in backward, under the random state that
    forward saw, so that both draw the same noise. Also a decorator: `@st.wrap(soft=soft_fn)`.

    Args:
        hard: returns one tensor; a bool or integer one is cast to the floating inputs' dtype.
        soft: returns a floating tensor of the same shape.

    Returns:
        A function of the same arguments. Tensors in them, also inside lists, tuples and dicts,
        get gradients; tensors that the functions close over do not, so pass them in.

    Raises:
        ArgumentError: if `soft` is missing, a function returns something else than one tensor,
            or no tensor is passed.
        ShapeError: in backward, if the two shapes differ (in compiled code, at once).

    Edge cases: the value is that of `hard` bit for bit, NaN and -0.0 included.

    Higher order: that of `soft`; forward mode works. Under `torch.compile` random functions
    are not replayed: draw the noise outside and pass it in.

    Cost: forward is that of `hard`; the input tensors are saved; backward runs `soft` forward
    and backward once. Inside `torch.func` transforms and exported graphs forward runs `soft` too.

    Example:
        >>> step = st.wrap(lambda x: x > 0, torch.sigmoid)
        >>> x = torch.tensor([0.0, 2.0], requires_grad=True)
        >>> step(x)
        tensor([0., 1.], grad_fn=<NodeBackward>)
    """
    if soft is None:
        raise ArgumentError("wrap needs soft: st.wrap(hard, soft) or @st.wrap(soft=soft)")
    if hard is None:
        return functools.partial(wrap, soft=soft)

    @functools.wraps(hard)
    def operator(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        leaves, tree = tree_flatten((args, kwargs))
        positions = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        if not positions:
            raise ArgumentError("a wrapped operator needs at least one tensor among its arguments")
        tensors = [leaves[i] for i in positions]
        rest = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        state = _read_random_state(tensors)
        operation = _Wrapped(hard, soft, tree, rest, positions, state)
        if torch.compiler.is_compiling() or transforms_active():
            return operation.at_once(*tensors)
        return apply(operation, *tensors)

    return operator


def _check_shapes(soft: Tensor, hard: Tensor) -> None:
    if soft.shape != hard.shape:
        raise ShapeError(
            f"soft returned shape {tuple(soft.shape)} where hard returned {tuple(hard.shape)}; "
            f"the two must agree"
        )


def _result_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    if not floating:
        raise DtypeError("hard returned integers and no argument is floating; return floats")
    return functools.reduce(torch.promote_types, floating)


def _read_random_state(tensors: Sequence[Tensor]) -> dict[torch.device, Tensor]:
    if torch.compiler.is_compiling():
        return {}
    state = {torch.device("cpu"): torch.get_rng_state()}
    for tensor in tensors:
        if tensor.device.type != "cpu" and tensor.device not in state:
            module = torch.get_device_module(tensor.device)
            state[tensor.device] = module.get_rng_state(tensor.device)
    return state


class _random_state:
    """Run a block under saved random states, and put the present ones back after it."""

    def __init__(self, state: dict[torch.device, Tensor]) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.present = {device: _swap(device, state) for device, state in self.state.items()}

    def __exit__(self, *_: object) -> None:
        for device, state in self.present.items():
            _swap(device, state)


def _swap(device: torch.device, state: Tensor) -> Tensor:
    if device.type == "cpu":
        before = torch.get_rng_state()
        torch.set_rng_state(state)
        return before
    module = torch.get_device_module(device)
    before = module.get_rng_state(device)
    module.set_rng_state(state, device)
    return before
