"""Gradients of hard values in `eval()`: those of the soft ones, at the same temperature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import straightthrough as st


def slope(gate: st.nn.BinaryConcrete, **given: Tensor) -> Tensor:
    (x,) = given.values()
    return torch.autograd.grad(gate(**given).sum(), x)[0]


@pytest.mark.parametrize("tau", [0.5, torch.tensor(2.0), st.nn.schedules.Linear(0.3, 1, steps=2)])
def test_a_hard_gate_in_eval_has_the_gradient_of_the_soft_one(tau: object) -> None:
    soft = st.nn.BinaryConcrete(tau).eval()
    hard = st.nn.BinaryConcrete(tau, hard=True).eval()
    logits = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    at = soft.rule.tau
    closed = torch.sigmoid(logits / at) * torch.sigmoid(-logits / at) / at
    torch.testing.assert_close(slope(hard, logits=logits), closed.detach())
    probs = torch.tensor([0.0, 0.2, 0.6, 1.0], requires_grad=True)
    assert torch.equal(slope(hard, probs=probs), slope(soft, probs=probs))
    assert hard(probs=probs).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_a_hard_gate_in_eval_is_that_of_a_softmax_of_two() -> None:
    x = torch.tensor([-1.0, 0.3, 2.0], requires_grad=True)
    two = st.nn.GumbelSoftmax(0.5, hard=True).eval()
    y = two(torch.stack([x, torch.zeros(3)], -1))[:, 0]
    (wanted,) = torch.autograd.grad(y.sum(), x)
    gate = st.nn.BinaryConcrete(0.5, hard=True).eval()
    assert torch.equal(gate(x), y)
    torch.testing.assert_close(slope(gate, logits=x), wanted)
