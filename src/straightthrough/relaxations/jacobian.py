"""The softmax at a temperature, and products with its Jacobian."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def relative_to(index: Tensor, grad: Tensor) -> Tensor:
    """Return `grad` less its entry at the outcome.

    No rule's gradient changes by a constant in `grad`; without it a row whose outcome is all but
    certain loses no digits to `g - <p, g>`.
    """
    return grad - grad.gather(-1, index.unsqueeze(-1))


def softmax_jacobian_product(p: Tensor, grad: Tensor) -> Tensor:
    """Return `J(p) grad = p (grad - <p, grad>)`, the softmax's Jacobian times `grad`."""
    return p * (grad - (p * grad).sum(-1, keepdim=True))


def tempered(logits: Tensor, tau: Any) -> Tensor:
    """Return `softmax(logits / tau)`."""
    return F.softmax(divided(logits, tau), -1)


def is_one(tau: Any) -> bool:
    """Whether a temperature is known to be 1, which some formulas are shorter for."""
    return not isinstance(tau, Tensor) and tau == 1


def over(x: Tensor, number: Any) -> Tensor:
    """Return `x / number`, which is `x` for 1."""
    return x if is_one(number) else x / number


def divided(logits: Tensor, tau: Any) -> Tensor:
    """Return `logits / tau`, up to a constant of the row."""
    # A large logit over tau loses digits, or is infinite, which makes NaN; the differences to the
    # largest keep theirs, and can only become -infinity, whose weight is 0.
    if is_one(tau):
        return logits
    return (logits - logits.detach().amax(-1, keepdim=True)) / tau
