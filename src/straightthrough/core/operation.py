"""An operation: a hard forward and its backward, side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from .errors import StraightThroughError
from .noise import NOISELESS, Noise, Place
from .portable import Portable
from .rules import Rule


class Operation(Portable, ABC):
    """A hard forward and its backward, side by side; every family of operators has one or a few.

    Subclasses are dataclasses of portable fields: rules, numbers, strings, tuples. Tensors travel
    as inputs, never as fields, but for a number that is one. One is made at every call and never
    changed; it is not frozen, as that takes .3 us more.

    Attributes:
        returned: which of the outputs `apply` returns: the value, or, as a slice, the value and
            integers such as an index, which get no gradient.
        name: what the user called, for errors.
        dims: the dimensions of every input but a seed, as those of a signature's `Input`: which of
            them a DTensor may be sharded along. The outputs have the first one's leading ones.
        carrier: a method that returns the input to which backward gives the value's gradient
            unchanged, if it does no more; that input has the value's shape and dtype.
    """

    returned: ClassVar[int | slice] = 0
    name: ClassVar[str] = "this operation"
    dims: ClassVar[tuple[str, ...]] = ()
    carrier: ClassVar[Callable[..., Tensor | None] | None] = None

    @property
    def unsharded(self) -> str:
        """Why a DTensor may not be sharded along any dimension, where there are no `dims`."""
        return f"{type(self).__name__} does not say how its inputs may be sharded: set its `dims`"

    @abstractmethod
    def forward(self, *inputs: Any, **_: Any) -> tuple[Tensor, ...]:
        """Return the hard value, then what else is returned, then what backward needs."""

    def forward_in_onnx(self, *inputs: Any) -> tuple[Tensor, ...]:
        """Return what `forward` does, out of functions that ONNX has."""
        return self.forward(*inputs)

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Choose what is saved for backward, and compute nothing: all but the value by default."""
        return (*inputs, *outputs[1:])

    def forward_and_save(
        self, *inputs: Any, **_: Any
    ) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
        """Return what `forward` does, and what is saved: what `residuals` chooses, or less."""
        outputs = self.forward(*inputs)
        return outputs, self.residuals(inputs, outputs)

    def fill(self, copy: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        """Give a copy of the carrier the value; return what `forward` does beside it."""
        outputs = self.forward(*inputs)
        copy.data = outputs[0]
        return outputs[1:]

    @abstractmethod
    def backward(self, grad: Tensor, *saved: Any, **_: Any) -> tuple[Tensor | None, ...]:
        """Return one gradient an input, out of differentiable operations."""

    def jvp(self, tangents: Sequence[Any], *saved: Any, **_: Any) -> Tensor | None:
        """Return the tangent of the value; sampling rules have none."""
        raise StraightThroughError(
            f"{self.name} has no forward-mode derivative: its rule defines a gradient only. "
            f"Use reverse mode (torch.func.vjp, grad, jacrev)"
        )


class Draw(Operation):
    """An operation with noise: its last input is the seed, `place` says where its first one lies.

    Subclasses have `place` among their fields.
    """

    place: Place


class RuledDraw(Draw):
    """A draw whose rule, a field, may draw noise of its own in backward: else no seed is saved.

    Backward takes the inputs but the seed, what forward returned beside the value, then the seed.
    """

    rule: Rule

    def residuals(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        kept = (*inputs[:-1], *outputs[1:])
        return (*kept, inputs[-1]) if self.rule.draws_noise else kept

    def noise(self, seed: Sequence[Tensor]) -> Noise:
        """Return where the rule's own noise comes from, given what was saved of the seed."""
        return Noise(seed[0], *self.place) if seed else NOISELESS
