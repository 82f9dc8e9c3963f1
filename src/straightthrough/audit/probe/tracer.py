"""Calls of a model's loss, whose operators are seen, or told what to return."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...core.engine import apply, intercepted
from ...core.errors import ArgumentError
from ...core.operation import Operation
from ...nn.base import RuleModule
from .draws import DRAWS

See = Callable[[str, Operation, Sequence[Tensor]], Any]
"""Gets an operator's name, itself and its inputs; returns its value, or None for its own."""

BatchLoss = Callable[[nn.Module, Any], Tensor]


class Tracer:
    """Calls a loss with the same noise each time, and leaves the model as it is.

    An operator's name is the path of its module or, of a function, that of the module that calls
    it and its own; from the second call on a number follows.
    """

    def __init__(self, model: nn.Module, loss: BatchLoss, batch: Any, seed: int) -> None:
        self._model, self._loss, self._batch, self._seed = model, loss, batch, seed
        tensors = [*model.parameters(), *model.buffers()]
        self._devices = {each.device for each in tensors if each.device.type == "cuda"}

    def __call__(self, see: See) -> Tensor:
        """Return the loss, summed to a 0-d tensor; what is compiled runs eagerly, to be seen."""
        paths: list[tuple[str, nn.Module]] = [("", self._model)]
        calls: Counter[str] = Counter()

        def intercept(operation: Operation, inputs: Sequence[Tensor]) -> Any:
            name = _name(*paths[-1], operation)
            calls[name] += 1
            known = name if calls[name] == 1 else f"{name}#{calls[name]}"
            with intercepted(None):
                value = see(known, operation, inputs)
                return apply(operation, *inputs) if value is None else value

        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:  # a second to load; without it nothing is compiled
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for path, module in self._model.named_modules():
                for handle in _following(path, module, paths):
                    stack.callback(handle.remove)
            stack.enter_context(intercepted(intercept))
            value = self._loss(self._model, self._batch)
        if not isinstance(value, Tensor):
            raise ArgumentError(f"loss must return a tensor, got {type(value).__name__}")
        return value.sum()

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Draw noise from the seed; put random state back, and write to copies of buffers."""
        copies: dict[Tensor, Tensor] = {}
        places = [
            (module, name, buffer)
            for module in self._model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        try:
            for module, name, buffer in places:
                module._buffers[name] = copies.setdefault(buffer, buffer.clone())
            with torch.random.fork_rng(self._devices):
                torch.manual_seed(self._seed)
                yield
        finally:
            for module, name, buffer in places:
                module._buffers[name] = buffer


def _name(path: str, module: nn.Module, operation: Operation) -> str:
    draw = DRAWS.get(type(operation))
    own = draw.name if draw else type(operation).__name__.lower()
    if isinstance(module, RuleModule):
        return path or own
    return f"{path}.{own}" if path else own


def _following(
    path: str, module: nn.Module, paths: list[tuple[str, nn.Module]]
) -> tuple[torch.utils.hooks.RemovableHandle, ...]:
    """Keep the module that runs at the end of `paths`."""
    return (
        module.register_forward_pre_hook(lambda *_: paths.append((path, module))),
        module.register_forward_hook(lambda *_: _drop(paths), always_call=True),
    )


def _drop(paths: list[tuple[str, nn.Module]]) -> None:
    paths.pop()
