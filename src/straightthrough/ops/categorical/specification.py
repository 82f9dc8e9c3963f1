"""What categorical operators are held against: values, means, and gradients in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.noise import Noise
from ...core.precision import compute_dtype
from ...core.rules import Relaxation
from ...estimators import CategoricalEstimator


def probabilities(logits: Tensor, **_: object) -> Tensor:
    """Return the mean of a draw, in float64."""
    return logits.double().softmax(-1)


def gradient(
    rule: CategoricalEstimator, logits: Tensor, y: Tensor, grad: Tensor, noise: Noise, **_: object
) -> tuple[Tensor]:
    """The estimator's formula at the outcome that `y` shows."""
    wide = compute_dtype(logits.dtype) if rule.draws_noise else torch.float64
    return (rule.gradient(logits.to(wide), y.argmax(-1), grad.to(wide), noise).double(),)


def number_gradient(
    rule: CategoricalEstimator, logits: Tensor, y: Tensor, grad: Tensor, noise: Noise, **_: object
) -> tuple[Tensor]:
    """The gradient at the one-hot that the number `y` stands for, of a loss of the number."""
    number = torch.arange(logits.shape[-1], device=logits.device)
    shown = (y.unsqueeze(-1) == number).to(logits.dtype)
    return gradient(rule, logits, shown, grad.double().unsqueeze(-1) * number, noise)


def probabilities_of_rows(logits: Tensor, table: Tensor, **_: object) -> Tensor:
    """Return the probability of each row of the table, in float64."""
    return probabilities(logits)


def lookup_gradient(
    rule: CategoricalEstimator, logits: Tensor, table: Tensor, y: Tensor, grad: Tensor, noise: Noise
) -> tuple[Tensor, Tensor]:
    """The gradients at the one-hot of the row that `y` is, of its product with the table.

    The rows differ from each other, so that `y` says which it is.
    """
    picked = (y.unsqueeze(-2) == table).all(-1).double()
    to_one_hot = grad.double() @ table.double().T
    to_table = picked.reshape(-1, len(table)).T @ grad.double().reshape(-1, grad.shape[-1])
    return *gradient(rule, logits, picked, to_one_hot, noise), to_table


def first_largest(logits: Tensor) -> Tensor:
    """The one-hot of the first largest class, NaN where a row has none."""
    y = F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    invalid = logits.isnan().any(-1) | logits.isneginf().all(-1)
    return y.masked_fill(invalid.unsqueeze(-1), torch.nan)


def relaxation_gradient(
    rule: Relaxation, logits: Tensor, y: Tensor, grad: Tensor, noise: Noise
) -> tuple[Tensor]:
    """The relaxation's own gradient, NaN in a row that holds one."""
    gradient = torch.func.vjp(rule.soft, logits.double())[1](grad.double())[0]
    return (gradient.masked_fill(logits.isnan().any(-1, keepdim=True), torch.nan),)
