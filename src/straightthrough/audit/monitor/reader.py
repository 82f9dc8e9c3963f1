"""The hooks on one operator of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...core.errors import apply_mask
from ...core.internals import transforms_active
from ...nn.bernoulli import HardConcreteGate
from ...nn.codebook import Codebook
from ...nn.quantized import Quantized
from ...nn.quantizer import Quantizer
from ...nn.router import Routing
from .quantities import (
    Kind,
    code_usage,
    examples,
    flip_rate,
    sample,
    saturation,
    signal_to_noise,
    usage,
)

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Output = Tensor | Quantized | Routing


class Reader:
    """Reads one module, and remembers the outcomes that its next ones are compared with.

    While `active`, the module is given a view of its input, so that the gradient that is seen there
    is the operator's alone, whatever else the input goes to.
    """

    def __init__(self, module: nn.Module, kind: Kind, elements: int, training: bool) -> None:
        self.active = True
        self._kind, self._elements, self._training = kind, elements, training
        self._found: dict[str, list[Tensor]] = defaultdict(list)
        self._last: list[Tensor] = []
        self._now: list[Tensor] = []
        # Here and not above, where torch's compiler would be imported together with this package.
        self._isolate_eagerly = torch.compiler.disable(self._isolate)
        self._read_eagerly = torch.compiler.disable(self._read)
        self._handles = (
            module.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            module.register_forward_hook(self._after_forward, with_kwargs=True),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return a reader that reads nothing: a copy of a model, or a saved one, is not watched."""
        found: dict[str, list[Tensor]] = defaultdict(list)
        kept = {"_found": found, "_last": [], "_now": [], "_handles": ()}
        return {"active": False, "_training": None, **kept}

    def collect(self) -> dict[str, list[Tensor]]:
        """Return what was found since this was last called, a number a call of the module."""
        found, self._found = self._found, defaultdict(list)
        self._last, self._now = self._now or self._last, []
        return found

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    # These two are all that is traced, or run, while there is nothing to observe.
    def _before_forward(
        self, module: nn.Module, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        if self.active and module.training is self._training:
            return self._isolate_eagerly(args, kwargs)
        return None

    def _after_forward(self, module: nn.Module, args: Args, kwargs: Kwargs, y: Output) -> None:
        if self.active and module.training is self._training:
            self._read_eagerly(module, args, kwargs, y)

    def _isolate(self, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        if not torch.is_grad_enabled() or transforms_active():
            return None
        return tuple(map(_view, args)), {name: _view(value) for name, value in kwargs.items()}

    def _read(self, module: nn.Module, args: Args, kwargs: Kwargs, y: Output) -> None:
        if isinstance(y, Routing):  # whose mask is of tokens
            y, kwargs = y.gates, {name: x for name, x in kwargs.items() if name != "mask"}
        value = y.quantized if isinstance(y, Quantized) else y
        if value.numel() == 0 or transforms_active():
            return
        if isinstance(y, Quantized):
            self._read_codes(module, _input(args, kwargs), y)
        else:
            self._read_values(module, args, kwargs, y)

    def _dims(self, module: nn.Module) -> tuple[int | None, int | None]:
        """Return the dimension of the classes in the input, and of what they are in the output."""
        kind = self._kind
        dim = cast(int, module.dim) if kind.counts else -1 if kind.rows else None
        return dim, kind.output_dim(module) if kind.counts else dim

    def _read_codes(self, module: nn.Module, x: Tensor, y: Quantized) -> None:
        rows = y.index.reshape(y.quantized.shape[:-1].numel(), -1)
        seen = code_usage(rows, cast(int, module.codes))
        books = [book for book in module.modules() if isinstance(book, Codebook)]
        if books:
            seen["dead_codes"] = float(sum(book.dead_codes for book in books))
        for name, value in seen.items():
            self._found[name].append(torch.tensor(value, device="cpu"))
        size = max(1, self._elements // y.quantized.shape[-1])
        self._compare(sample(rows.unsqueeze(0), size))
        if y.quantized.requires_grad and x.requires_grad:
            self._watch_gradients(module, x, y.quantized, False, size)

    def _read_values(self, module: nn.Module, args: Args, kwargs: Kwargs, y: Tensor) -> None:
        x = module.logits if isinstance(module, HardConcreteGate) else _input(args, kwargs)
        # All examples share a parameter, and what is a view of one.
        shared = isinstance(x._base if x._is_view() else x, nn.Parameter)
        dim, output_dim = self._dims(module)
        with torch.no_grad():
            given = examples(apply_mask("logits", x, kwargs.get("mask")), dim, shared)
            output = examples(y, output_dim, shared)
            size = max(1, self._elements // max(given.shape[-1], output.shape[-1]))
            if self._kind.entropy is not None:
                of_probs, rule = kwargs.get("probs") is not None, getattr(module, "rule", None)
                tau = 1.0 if rule is None else rule.tau_forward
                found = self._kind.entropy(module, sample(given, size), of_probs, tau)
                self._found["entropy"].append(found)
            self._read_output(module, output, given.shape[-1], size)
            if isinstance(module, Quantizer):
                self._read_quantizer(module, x, shared)
        if y.requires_grad and x.requires_grad:
            self._watch_gradients(module, x, y, shared, size)

    def _read_output(self, module: nn.Module, output: Tensor, classes: int, size: int) -> None:
        kind, found = self._kind, self._found
        if kind.zeros:
            found["sparsity"].append((sample(output, size) == 0).float().mean())
        if kind.outcome is None or kind.codes:
            return
        outcome = kind.outcome(module, output)
        if kind.counts is not None:
            use, perplexity = usage(kind.counts(module, outcome, classes))
            found["code_use"].append(use)
            found["perplexity"].append(perplexity)
        self._compare(sample(outcome, size))

    def _read_quantizer(self, module: Quantizer, x: Tensor, shared: bool) -> None:
        if module.active:
            codes = module.grid.in_order(module.codes(x))  # of which +0 and -0 are one
            self._compare(sample(examples(codes, None, shared), self._elements))
        if module.oscillation is not None:
            self._found["oscillation"].append(module.oscillation.frequency.mean())
            self._found["frozen"].append(module.oscillation.frozen.float().mean())

    def _compare(self, outcome: Tensor) -> None:
        """Compare an outcome with that of the same call in the last observed step."""
        call, now = len(self._now), outcome.clone()
        self._now.append(now)
        if call < len(self._last) and self._last[call].shape == now.shape:
            self._found["flip_rate"].append(flip_rate(self._last[call], now))

    def _watch_gradients(
        self, module: nn.Module, x: Tensor, y: Tensor, shared: bool, size: int
    ) -> None:
        """Look at the gradient that arrives at `y` and the one that leaves through `x`.

        The hooks hold neither, so that nothing lives longer than it would.
        """
        found, (dim, output_dim) = self._found, self._dims(module)
        live: list[Tensor] = []

        def arrive(grad: Tensor) -> None:
            live.append((sample(examples(grad, output_dim, shared), size) != 0).any(-1))

        def leave(grad: Tensor) -> None:
            if not live:  # of a second derivative, which enters through the formula
                return
            outgoing = sample(examples(grad, dim, shared), size)
            found["saturation"].append(saturation(live.pop(), outgoing))
            if len(outgoing) > 1:
                found["gradient_snr"].append(signal_to_noise(outgoing))

        if not isinstance(module, HardConcreteGate):
            y.register_hook(arrive)
            x.register_hook(leave)
        elif module.training:  # in eval() a gate is no operator, but a formula
            _hook_node(y, arrive, leave)


def _hook_node(
    y: Tensor, arrive: Callable[[Tensor], None], leave: Callable[[Tensor], None]
) -> None:
    """Look at the gradients of a gate, whose input is a parameter that others may use."""

    def both(inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...]) -> None:
        if inputs[0] is not None and outputs[0] is not None:
            arrive(outputs[0])
            leave(inputs[0])

    if y.grad_fn is not None:
        y.grad_fn.register_hook(both)


def _view(value: Any) -> Any:
    return value.view_as(value) if isinstance(value, Tensor) and value.requires_grad else value


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return what the operator works on: the first that it is given besides a mask."""
    given = [*args, *(value for name, value in kwargs.items() if name != "mask")]
    return next(value for value in given if isinstance(value, Tensor))
