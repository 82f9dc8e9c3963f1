"""A control variate that any estimator of a categorical draw may have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.compiler import is_exporting

from ..core.errors import (
    ArgumentError,
    ShapeError,
    StraightThroughError,
    check_count,
    check_floating,
)
from .checked import Checked, Checks, check_fraction
from .kept import KeptDtypes
from .measured import blended


class ControlVariate(KeptDtypes, Checked):
    """`- b (z - p)` on the gradient of a draw: the same mean, and less variance.

    z is the drawn one-hot, p its mean, and b a running ratio a position, read where z is drawn:
    `b = EMA(P (z - p)) / EMA((z - p)^2)`, P the estimator's gradient. As b does not depend on z
    and `E[z - p] = 0`, the mean stays what it is; most of ReinMax's variance at 8 classes goes.

    It is passed to `st.nn.Categorical`, and is at work in training where a gradient is due. Its two
    averages are buffers in float32, whatever `.to(dtype)` says. Each process keeps its own.

    Args:
        shape: the last dimensions of the logits, those of a position: `8`, or `(30, 10)` for 30
            variables of 10 classes. Over those before them averages are taken.
        decay: of the averages, in [0, 1).

    Example:
        >>> sample = st.nn.Categorical("reinmax", control=st.nn.ControlVariate(4))
        >>> logits = torch.zeros(64, 4, requires_grad=True)
        >>> sample(logits)[:, 0].sum().backward()
        >>> [*sample.state_dict()]
        ['control.product', 'control.square']
    """

    product: Tensor
    square: Tensor
    checks: ClassVar[Checks] = {"decay": check_fraction}

    def __init__(self, shape: int | tuple[int, ...], *, decay: float = 0.99) -> None:
        super().__init__()
        given = shape if isinstance(shape, tuple) else (shape,)
        sizes = tuple(check_count("shape", size) for size in given)
        if not sizes:
            raise ArgumentError(
                "shape must have one dimension at least, got (); pass the number of classes"
            )
        self.decay = decay
        self.register_buffer("product", torch.zeros(sizes, dtype=torch.float32))
        self.register_buffer("square", torch.zeros(sizes, dtype=torch.float32))

    def forward(
        self, logits: Tensor, draw: Callable[[Tensor], Tensor], mean: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return `draw(logits)`, `mean` being its mean, with the gradient less the variate."""
        if is_exporting():
            raise StraightThroughError(
                "an exported graph can't hold a control variate, whose averages move in backward; "
                "export the module in eval(), or with its control set to None"
            )
        check_floating("logits", logits)
        shape = self.product.shape
        if logits.shape[-len(shape) :] != shape:
            raise ShapeError(
                f"logits must end with the shape {tuple(shape)} of the control variate, got "
                f"{tuple(logits.shape)}"
            )
        moved = logits.view_as(logits)
        z = draw(moved)
        if moved.requires_grad:
            off = (z.detach() - mean(logits.detach())).float()
            # Now: in backward it may know this draw, by the gradient of another of the same loss.
            b = torch.where(self.square > 0, self.product / self.square, 0)
            # The averages of this call: after it `torch.func.functional_call` takes its own back.
            moved.register_hook(partial(self._less, off, b, self.product, self.square))
        return z

    def _less(
        self, off: Tensor, b: Tensor, product: Tensor, square: Tensor, grad: Tensor
    ) -> Tensor:
        """Return a gradient less `b off`, and move the averages."""
        if not grad.numel():
            return grad  # of no position there is no mean
        given = grad.detach().float() * off
        known = given.isfinite()  # what overflowed is of a step that loss scaling skips
        for average, moment in ((product, given), (square, off.square())):
            counted = torch.where(known, moment, torch.nan).reshape(-1, *average.shape)
            average.copy_(blended(average, counted.nanmean(0), 1 - self.decay))
        return grad - (b * off).to(grad.dtype)

    def extra_repr(self) -> str:
        return f"{tuple(self.product.shape)}, decay={self.decay}"
